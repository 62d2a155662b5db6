//! LLaVA-1.5 and LLaVA-1.6: CLIP vision tower, projector, and a Llama or Mistral language model with LoRA.
//!
//! Everything but the LoRA weights is frozen: a frozen weight is a plain tensor that no gradient ever reaches.
//! The forms that candle fuses return no gradient and no error, so [`Mode`] picks differentiable forms for the
//! backward pass and fused ones elsewhere.

pub mod config;
pub mod digest;
mod gradients;
pub mod language;
pub mod linear;
pub mod llava;
pub mod lora;
mod projector;
mod vision_tower;
pub mod weights;

pub use config::LlavaConfig;
pub use gradients::Gradients;
pub use llava::Llava;
pub use lora::LoraAdapter;

/// Whether an operation must carry a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Fused operations, no gradient.
    Inference,
    /// Differentiable operations.
    Training,
}
