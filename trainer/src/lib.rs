//! The STIC trainer: generation, LoRA DPO and LoRA SFT on candle.

pub mod algorithm;
pub mod data;
pub mod error;

pub use error::{Error, Result};
