//! What LoRA promises: every trainable tensor learns and nothing else does, an adapter is its merge, an adapter that
//! is off is not there, and a gradient is that of its loss.
//!
//! The models are those of `parity.rs`: a LLaVA-1.5 over Llama, and a LLaVA-1.6 over Mistral with shared key heads.

#![expect(clippy::unwrap_used, reason = "a test ends where its fixtures are not what they should be")]

mod fixture;

mod differences;
mod dropout;
mod gradients;
mod limits;
mod merge;
mod sharing;
