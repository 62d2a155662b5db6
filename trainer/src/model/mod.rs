//! Vision-language models: CLIP vision tower, projector, and a Llama or Mistral language model with LoRA.
//!
//! Architecture Invariant: everything but the LoRA weights is frozen. A frozen weight is a plain tensor, which no gradient
//! ever reaches. What differs between model families is decided in [`families`] alone.

pub mod config;
pub mod digest;
pub mod families;
mod gradients;
pub mod language;
pub mod linear;
pub mod lora;
mod mode;
mod projector;
pub mod renames;
mod separate_tower;
mod vision_language_model;
mod vision_tower;
pub mod weight_files;
pub mod weights;

pub use families::{CheckpointLayout, Family, ModelConfig};
pub use gradients::Gradients;
pub use lora::LoraAdapter;
pub use mode::Mode;
pub use separate_tower::complete_config;
pub use vision_language_model::VisionLanguageModel;
