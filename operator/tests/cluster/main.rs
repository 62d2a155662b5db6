//! The controller against a real API server, with Kubernetes' own Job controller; only the kubelet is played.
//!
//! `make controller-test` runs it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod account;
mod alone;
#[path = "../pure/common.rs"]
#[expect(dead_code, reason = "the pure tests use the rest")]
mod common;
mod conflicts;
#[cfg(feature = "failpoints")]
mod crashes;
mod deletions;
mod director;
mod endings;
mod kstatus;
mod kubelet;
mod lives;
mod node;
mod operator;
mod pods;
mod proxy;
mod record;
mod reruns;
mod runs;
mod stale;
mod upgrades;
mod upstream;
mod workloads;
mod world;
