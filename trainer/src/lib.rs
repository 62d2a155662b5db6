//! The STIC trainer: generation, LoRA DPO and LoRA SFT on candle.

pub mod error;

pub use error::{Error, Result};
