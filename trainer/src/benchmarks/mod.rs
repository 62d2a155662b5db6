//! Benchmarks: held-out questions about images, answered under several policies and compared in pairs.
//!
//! Each benchmark implements [`Benchmark`] in a file of its own and is listed in [`BENCHMARKS`]. The rest is shared:
//! prompting, resuming, scores with intervals, and the table.

mod answer_plan;
mod answers;
mod benchmark;
mod evaluation;
mod input_file;
mod intervals;
mod phrases;
mod questions;
mod scenes;
mod score_table;

pub use self::benchmark::{Benchmark, BenchmarkOptions};
pub use self::evaluation::{Evaluation, RegisteredBenchmark};

/// Every benchmark that `evaluate --benchmark` accepts; the first is the default.
pub const BENCHMARKS: &[RegisteredBenchmark] = &[RegisteredBenchmark::of::<scenes::Scenes>()];
