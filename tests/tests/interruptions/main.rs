//! Whatever happens to a run, its artifacts have the same bytes.
//!
//! The real `kubectl-stic` and `stic-trainer` on a small part of the quickstart: run twice, with other numbers of shards
//! and threads, killed and interrupted at random moments, with damaged training states, and with artifacts that were tampered
//! with. A failing test prints its seed; `STIC_TEST_SEED` repeats its moments.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod artifacts;
mod moments;
mod process;
mod sandbox;

mod combined;
mod damaged;
mod reproduced;
mod resumed;
mod supervised;
mod tampered;
