//! LLaVA-1.5 (transformers `models/llava`): an image is one crop, and its features are its tokens.

use candle_core::Tensor;

use super::model_config::{CheckpointLayout, Family, ModelConfig};
use crate::data::anyres::Packing;
use crate::data::fields::Fields;
use crate::data::processor::ProcessorDefaults;
use crate::error::Result;
use crate::model::config::{Activation, TextConfig, VisionConfig, VisionTowerKind};
use crate::model::renames::Rename;

/// `model_type` in transformers' layout.
pub(super) const MODEL_TYPE: &str = "llava";
/// Only original repositories have this field.
pub(super) const ORIGINAL_FIELD: &str = "mm_vision_tower";
pub(super) const SELECT_STRATEGY: &str = "vision_feature_select_strategy";
/// The same in original repositories.
pub(super) const SELECT_FEATURE: &str = "mm_vision_select_feature";
pub(super) const VISION_TOWER: VisionTowerKind = VisionTowerKind::Clip;
pub(super) const PROCESSOR_DEFAULTS: ProcessorDefaults = ProcessorDefaults { pinpoints: &[], image_tokens };

/// The layouts of transformers 4, of transformers 5, of the original LLaVA, and of a CLIP repository.
pub(super) const RENAMES: &[Rename] = &[
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("vision_model.", "vision_tower."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.layers.", "language_model.model.layers."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.norm.", "language_model.model.norm."),
    ("language_model.layers.", "language_model.model.layers."),
];

pub(super) fn read_config(root: &Fields<'_>, layout: CheckpointLayout) -> Result<ModelConfig> {
    match layout {
        CheckpointLayout::Transformers => read_transformers(root),
        CheckpointLayout::Original => read_original(root),
    }
}

fn read_transformers(root: &Fields<'_>) -> Result<ModelConfig> {
    let family_tower = VisionConfig::clip_vit_large_patch14_336();
    let vision = match root.nested("vision_config")? {
        Some(fields) => VisionConfig::read(&fields, &family_tower)?,
        None => family_tower,
    };
    let text = TextConfig::read(&root.nested("text_config")?.unwrap_or_else(|| root.empty()))?;
    let tie = root.boolean("tie_word_embeddings")?.unwrap_or(false);
    let image_token_id = match root.count("image_token_index")? {
        Some(id) => Some(id),
        None => root.count("image_token_id")?,
    };
    Ok(ModelConfig {
        family: Family::Llava,
        layout: CheckpointLayout::Transformers,
        vision: Some(vision),
        vision_tower_name: None,
        text: TextConfig { tie_word_embeddings: text.tie_word_embeddings || tie, ..text },
        image_token_id: image_token_id.unwrap_or(32000) as u32,
        grid_pinpoints: Vec::new(),
        vision_feature_layers: feature_layers(root, "vision_feature_layer")?,
        keep_class_token: match root.text(SELECT_STRATEGY)? {
            None | Some("default") => false,
            Some("full") => true,
            Some(_) => return Err(root.wrong(SELECT_STRATEGY, "default or full")),
        },
        projector_activation: Activation::read(root, "projector_hidden_act")?.unwrap_or(Activation::Gelu),
        projector_bias: root.boolean("multimodal_projector_bias")?.unwrap_or(true),
    })
}

fn read_original(root: &Fields<'_>) -> Result<ModelConfig> {
    if root.text("mm_projector_type")? != Some("mlp2x_gelu") {
        return Err(root.wrong("mm_projector_type", "mlp2x_gelu; use a LLaVA-1.5 or 1.6 checkpoint"));
    }
    refuse_unsupported(root)?;
    let vision_tower_name = root.text(ORIGINAL_FIELD)?;
    let vision = match root.nested("vision_config")? {
        Some(fields) => Some(VisionConfig::read(&fields, &VisionConfig::clip_vit_large_patch14_336())?),
        None => vision_tower_name.and_then(VisionConfig::of_repository),
    };
    Ok(ModelConfig {
        family: Family::Llava,
        layout: CheckpointLayout::Original,
        vision,
        vision_tower_name: vision_tower_name.map(str::to_owned),
        text: TextConfig::read(root)?,
        image_token_id: root.count("image_token_index")?.unwrap_or(32000) as u32,
        grid_pinpoints: Vec::new(),
        vision_feature_layers: feature_layers(root, "mm_vision_select_layer")?,
        keep_class_token: match root.text(SELECT_FEATURE)? {
            None | Some("patch") => false,
            Some("cls_patch") => true,
            Some(_) => return Err(root.wrong(SELECT_FEATURE, "patch or cls_patch")),
        },
        projector_activation: Activation::Gelu,
        projector_bias: true,
    })
}

/// Refuses what LLaVA's code supports beyond the models that it published.
fn refuse_unsupported(root: &Fields<'_>) -> Result<()> {
    const ADVICE: &str = "use a LLaVA-1.5 or 1.6 checkpoint without it";
    for (field, effect) in [
        ("mm_use_im_start_end", "puts <im_start> and <im_end> around the image"),
        ("s2", "computes the features at several scales"),
    ] {
        if root.boolean(field)? == Some(true) {
            return Err(root.error(field, &format!("true is not supported: LLaVA then {effect}; {ADVICE}")));
        }
    }
    if root.text("mm_resampler_type")?.is_some() {
        return Err(root.error("mm_resampler_type", &format!("resamplers are not supported; {ADVICE}")));
    }
    Ok(())
}

fn feature_layers(root: &Fields<'_>, key: &str) -> Result<Vec<i64>> {
    let Some(value) = root.get(key) else { return Ok(vec![-2]) };
    let layers = match value.as_array() {
        Some(items) => items.iter().map(serde_json::Value::as_i64).collect::<Option<Vec<_>>>(),
        None => value.as_i64().map(|layer| vec![layer]),
    };
    layers
        .filter(|layers| !layers.is_empty())
        .ok_or_else(|| root.wrong(key, "a whole number or a list of them"))
}

fn image_tokens(crop_features: usize, _: Option<&Packing>) -> usize {
    crop_features
}

/// Projected crops `[crops, features, width]` to tokens `[crops * features, width]`.
pub(super) fn pack(crops: &Tensor) -> Result<Tensor> {
    let (count, features, width) = crops.dims3()?;
    Ok(crops.reshape((count * features, width))?)
}
