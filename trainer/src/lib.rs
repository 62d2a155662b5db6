//! The STIC trainer: generation, LoRA DPO and LoRA SFT on candle.

pub mod algorithm;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluation;
pub mod generation;
pub mod io;
pub mod kernels;
pub mod memory;
pub mod model;
pub mod scoring;
pub mod stages;
pub mod training;

pub use error::{Error, Result};
