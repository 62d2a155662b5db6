//! The STIC trainer: generation, LoRA DPO and LoRA SFT on candle.
//!
//! Layers, the lowest first: error, cancellation, device, memory; io, external_sort; data; algorithm, kernels; model;
//! generation, training; checkpoint; inference; judging; scoring, benchmarks, serving; stages; cli. A module imports from its own layer or lower ones only.

pub mod algorithm;
pub mod benchmarks;
pub mod cancellation;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod external_sort;
pub mod generation;
pub mod inference;
pub mod io;
pub mod judging;
pub mod kernels;
pub mod memory;
pub mod model;
pub mod scoring;
pub mod serving;
pub mod stages;
pub mod training;

pub use error::{Error, Result};
