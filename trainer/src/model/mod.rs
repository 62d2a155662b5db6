//! LLaVA-1.5 and LLaVA-1.6: CLIP vision tower, projector, and a Llama or Mistral language model with LoRA.
//!
//! Everything but the LoRA weights is frozen: a frozen weight is a plain tensor that no gradient ever reaches.

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

/// What a forward pass is for. On a CPU in f32, [`Mode::Inference`] and [`Mode::Training`] compute the same bits: a layer
/// that is run again in the backward pass is the layer that was run forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Many tokens at once, without a graph.
    Inference,
    /// The same with the graph that gradients are taken from.
    Training,
    /// One token of each of a few sequences: a row's bits do not depend on the other rows, nor on their number.
    Decoding,
}
