//! The language model: Llama and Mistral, which differ in their configs only.

mod attention;
mod decoder_layer;
mod kv_cache;
mod language_model;
mod layout;
mod norm;
mod passes;
mod rope;

pub use self::kv_cache::KvCache;
pub use self::language_model::LanguageModel;
pub use self::layout::{Layout, Segment, Tree};
pub use self::passes::{Checkpoints, PassLimits};
