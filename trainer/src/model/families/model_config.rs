//! What a model is, whatever family and repository it comes from.

use crate::model::config::{Activation, TextConfig, VisionConfig};

/// A family of vision-language models. Everything that differs between families is decided in this module's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// LLaVA-1.5: transformers' `LlavaForConditionalGeneration`.
    Llava,
    /// LLaVA-1.6: transformers' `LlavaNextForConditionalGeneration`.
    LlavaNext,
}

/// The layout of a checkpoint: the fields of its config and the names of its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointLayout {
    /// That of transformers' `save_pretrained`.
    Transformers,
    /// That of haotian-liu/LLaVA: the language model's fields are not nested, and the vision tower may be in a
    /// repository of its own.
    Original,
}

/// A model's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub layout: CheckpointLayout,
    /// `None` until a vision tower in a repository of its own is found.
    pub vision: Option<VisionConfig>,
    /// The name of that repository.
    pub vision_tower_name: Option<String>,
    pub text: TextConfig,
    /// The id in place of each image feature in prompts.
    pub image_token_id: u32,
    /// Anyres grids as (height, width) in pixels; empty where an image is one crop.
    pub grid_pinpoints: Vec<(u32, u32)>,
    /// The hidden states that the features are taken from, in transformers' counting: 0 is the embedding, negative
    /// numbers count from the end. Several are concatenated.
    pub vision_feature_layers: Vec<i64>,
    /// Whether the features keep the class token (`full`) or drop it (`default`).
    pub keep_class_token: bool,
    /// Between the projector's two layers.
    pub projector_activation: Activation,
    /// Whether both layers of the projector have a bias.
    pub projector_bias: bool,
}
