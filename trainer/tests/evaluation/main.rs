//! The steps of an `EvaluationRun` on the quickstart's model: prepare, answer, judge, score.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod judge_server;
mod sandbox;

mod interrupted;
mod judged;
mod prepared;
mod reused;
mod scored;
