//! The properties of LoRA: exactly the trainable tensors learn, an adapter equals its merge, a disabled adapter has no
//! effect, and gradients are those of the loss.
//!
//! The models are those of `parity.rs`: a LLaVA-1.5 with Llama, and a LLaVA-1.6 with Mistral and shared key heads.

#![expect(clippy::unwrap_used, reason = "a test ends where its fixtures are not what they should be")]

mod fixture;

mod differences;
mod dropout;
mod gradients;
mod limits;
mod merge;
mod sharing;
