//! Whatever happens to a run, its artifacts are the same bytes.
//!
//! The real `kubectl-stic` and `stic-trainer` on a small cut of the quickstart: run twice, on other numbers of shards
//! and threads, killed and asked to stop at moments drawn from a seed, with damaged state, and with artifacts that were
//! tampered with.
//! `STIC_TEST_SEED` repeats the moments of an earlier run; a failing test prints its seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod artifacts;
mod bench;
mod moments;
mod process;

mod combined;
mod damaged;
mod reproduced;
mod resumed;
mod supervised;
mod tampered;
