//! The pure parts of the controller, on runs as the API server would hand them over.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod build;
mod common;
mod decide;
mod evaluation;
mod job_state;
mod next_step;
mod status;
mod status_results;
mod validate;
