//! The controller against a real API server and the Job controller of Kubernetes. Only the kubelet is simulated.
//!
//! Run with `make controller-test`.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admission;
mod alone;
mod certificate;
#[path = "../pure/common.rs"]
#[expect(dead_code, reason = "the pure tests use the rest")]
mod common;
mod conflicts;
mod crashes;
mod deletions;
mod evaluations;
mod invariants;
mod kstatus;
mod kubelet;
mod kueue;
mod lifecycle;
mod node;
mod operator;
mod pods;
mod provisioning;
mod proxy;
mod queues;
mod readiness;
mod reruns;
mod runs;
mod scripted_pods;
mod service_account;
mod stale;
mod step_outcomes;
mod test_env;
mod upgrades;
mod upstream;
mod webhook;
mod webhooks;
mod workloads;
