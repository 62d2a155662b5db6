//! The controller against a real API server, with Kubernetes' own Job controller; only the kubelet is played.
//!
//! `make controller-test` runs it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod claims;
#[path = "../pure/common.rs"]
#[expect(dead_code, reason = "the pure tests use the rest")]
mod common;
#[cfg(feature = "failpoints")]
mod crashes;
mod deletions;
mod director;
mod endings;
mod kstatus;
mod kubelet;
mod kueue;
mod lives;
mod node;
mod pods;
mod record;
mod reruns;
mod unreadable;
mod upstream;
mod world;
