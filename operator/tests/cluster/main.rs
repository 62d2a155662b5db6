//! The controller against a real API server, with Kubernetes' own Job controller; only the kubelet is played.
//!
//! `make controller-test` runs it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod account;
#[path = "../pure/common.rs"]
#[expect(dead_code, reason = "the pure tests use the rest")]
mod common;
#[cfg(feature = "failpoints")]
mod crashes;
mod conflicts;
mod history;
mod kubelet;
#[cfg(feature = "failpoints")]
mod workloads;
mod leadership;
mod lives;
mod operator;
mod proxy;
mod stale;
mod upgrades;
mod world;
