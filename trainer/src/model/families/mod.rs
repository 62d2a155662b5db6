//! Model families: everything that differs between them, one file each, behind [`Family`].
//!
//! A family provides how its config is read, its tensor rename table, the processor's defaults, how image features are
//! packed into tokens and counted, and the kind of its vision tower. The biases of projections are part of the configs.

mod llava;
mod llava_next;
mod model_config;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::data::anyres::Packing;
use crate::data::fields::Fields;
use crate::data::files::{CONFIG_FILE, read_json};
use crate::data::processor::ProcessorDefaults;
use crate::error::{Error, Result};
use crate::model::config::{VisionTowerKind, quantization};
use crate::model::renames::RenameTables;
use crate::model::weights::Weights;

pub use self::model_config::{CheckpointLayout, Family, ModelConfig};

impl ModelConfig {
    /// Reads `config.json` of the model folder `dir`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field, for a missing file, an unknown architecture or a value of
    /// the wrong type.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let object = read_json(&path)?.ok_or_else(|| {
            Error::Config(format!(
                "{}: not found; the model's path must be the folder of a LLaVA checkpoint",
                path.display()
            ))
        })?;
        let root = Fields::new(&path, &object);
        // Before anything else: the config describes the weights as they were before they were quantised.
        quantization::refuse(dir, &root)?;
        Self::read(&root)
    }

    fn read(root: &Fields<'_>) -> Result<Self> {
        let (family, layout) = Family::of(root)?;
        match family {
            Family::Llava => llava::read_config(root, layout),
            Family::LlavaNext => llava_next::read_config(root, layout),
        }
    }
}

impl Family {
    fn of(root: &Fields<'_>) -> Result<(Self, CheckpointLayout)> {
        if root.raw(llava::ORIGINAL_FIELD).is_some() {
            let family = if llava_next::is_original(root)? { Self::LlavaNext } else { Self::Llava };
            return Ok((family, CheckpointLayout::Original));
        }
        let family = match root.text("model_type")? {
            Some(llava::MODEL_TYPE) => Self::Llava,
            Some(llava_next::MODEL_TYPE) => Self::LlavaNext,
            _ => {
                return Err(root.wrong(
                    "model_type",
                    "llava (LLaVA-1.5) or llava_next (LLaVA-1.6); use such a checkpoint, or an original LLaVA one",
                ));
            }
        };
        Ok((family, CheckpointLayout::Transformers))
    }

    /// What the image processor does where its file says nothing.
    #[must_use]
    pub const fn processor_defaults(self) -> ProcessorDefaults {
        match self {
            Self::Llava => llava::PROCESSOR_DEFAULTS,
            Self::LlavaNext => llava_next::PROCESSOR_DEFAULTS,
        }
    }

    pub(super) const fn vision_tower(self) -> VisionTowerKind {
        match self {
            Self::Llava => llava::VISION_TOWER,
            Self::LlavaNext => llava_next::VISION_TOWER,
        }
    }

    /// The tables that give stored tensors their canonical names.
    #[must_use]
    pub const fn renames(self) -> RenameTables {
        match self {
            Self::Llava => &[llava::RENAMES],
            Self::LlavaNext => &[llava_next::RENAMES, llava::RENAMES],
        }
    }
}

impl Family {
    /// The number of tokens that an image of `crops` crops of `features` features becomes: the packing itself, on features
    /// of width 1.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the features cannot be laid out in this way.
    pub fn count_tokens(self, crops: usize, features: usize, packing: Option<&Packing>) -> Result<usize> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let packer = match self {
            Self::Llava => FeaturePacking::Llava,
            Self::LlavaNext => FeaturePacking::LlavaNext { newline: zeros(&[1])? },
        };
        Ok(packer.pack(&zeros(&[crops, features, 1])?, packing)?.dim(0)?)
    }
}

/// How the projected features of an image's crops become its tokens, with the tensors that this takes.
pub(super) enum FeaturePacking {
    Llava,
    LlavaNext { newline: Tensor },
}

impl FeaturePacking {
    /// `width` is the language model's.
    pub(super) fn load(family: Family, weights: &Weights, width: usize) -> Result<Self> {
        Ok(match family {
            Family::Llava => Self::Llava,
            Family::LlavaNext => Self::LlavaNext { newline: llava_next::load_newline(weights, width)? },
        })
    }

    /// Projected crops `[crops, features, width]` to tokens `[tokens, width]`. Without a packing the image is one crop.
    pub(super) fn pack(&self, crops: &Tensor, packing: Option<&Packing>) -> Result<Tensor> {
        match (self, packing) {
            (Self::LlavaNext { newline }, Some(packing)) => llava_next::pack(crops, packing, newline),
            (Self::Llava, _) | (Self::LlavaNext { .. }, None) => llava::pack(crops),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Activation, VisionConfig};
    use crate::model::renames::canonical_name;

    fn parse(json: &str) -> Result<ModelConfig> {
        let object = serde_json::from_str(json).expect("the test's JSON");
        ModelConfig::read(&Fields::new(Path::new("m/config.json"), &object))
    }

    #[test]
    fn transformers_configs_leave_class_defaults_out() {
        let c = parse(
            r#"{"model_type":"llava_next","image_token_index":32000,"text_config":{"model_type":"mistral",
            "intermediate_size":14336,"num_key_value_heads":8,"rope_theta":1e6,"sliding_window":null,
            "max_position_embeddings":32768,"vocab_size":32064,"rms_norm_eps":1e-5},
            "vision_config":{"hidden_size":1024,"image_size":336,"intermediate_size":4096,"num_attention_heads":16,
            "num_hidden_layers":24,"patch_size":14,"projection_dim":768}}"#,
        )
        .expect("valid");
        assert_eq!((c.family, c.layout), (Family::LlavaNext, CheckpointLayout::Transformers));
        assert_eq!((c.text.hidden_size, c.text.num_hidden_layers, c.text.head_dim), (4096, 32, 128));
        assert_eq!((c.text.rope_theta, c.text.sliding_window), (1e6, None));
        assert_eq!(c.vision.as_ref().map(VisionConfig::side), Some(24));
        assert_eq!(c.vision.map(|v| v.hidden_act), Some(Activation::QuickGelu));
        assert_eq!((c.vision_feature_layers, c.grid_pinpoints.len()), (vec![-2], 5));
    }

    #[test]
    fn original_configs_keep_the_language_model_flat() {
        let c = parse(
            r#"{"model_type":"llava_mistral","mm_vision_tower":"openai/clip-vit-large-patch14-336",
            "mm_projector_type":"mlp2x_gelu","image_aspect_ratio":"anyres","mm_patch_merge_type":"spatial_unpad",
            "image_grid_pinpoints":"[(336, 672), (672, 336)]","mm_vision_select_layer":-2,
            "hidden_size":4096,"num_key_value_heads":8,"vocab_size":32000,"sliding_window":null}"#,
        )
        .expect("valid");
        assert_eq!((c.family, c.layout), (Family::LlavaNext, CheckpointLayout::Original));
        assert_eq!(c.grid_pinpoints, vec![(336, 672), (672, 336)]);
        assert_eq!(c.vision, Some(VisionConfig::clip_vit_large_patch14_336()));
    }

    #[test]
    fn an_original_config_without_anyres_is_llava() {
        let c = parse(
            r#"{"model_type":"llava_llama","mm_vision_tower":"openai/clip-vit-large-patch14",
            "mm_projector_type":"mlp2x_gelu","image_aspect_ratio":"pad","attention_bias":true}"#,
        )
        .expect("valid");
        assert_eq!((c.family, c.layout), (Family::Llava, CheckpointLayout::Original));
        assert!(c.grid_pinpoints.is_empty());
        assert_eq!(c.vision.map(|v| v.image_size), Some(224));
        assert_eq!(
            c.text.biased.iter().map(|t| t.as_str()).collect::<Vec<_>>(),
            ["q_proj", "k_proj", "v_proj", "o_proj"]
        );
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        for (json, expected) in [
            (r#"{"model_type":"qwen2_vl"}"#, "field model_type is \"qwen2_vl\"; it must be llava"),
            (
                r#"{"model_type":"llava","text_config":{"hidden_size":"x"}}"#,
                "field text_config.hidden_size is \"x\"; it must be a positive whole number",
            ),
            (
                r#"{"model_type":"llava","vision_config":{"model_type":"siglip_vision_model"}}"#,
                "field vision_config.model_type is \"siglip_vision_model\"; it must be clip_vision_model",
            ),
            (
                r#"{"model_type":"llava","text_config":{"hidden_size":100,"num_attention_heads":3}}"#,
                "field text_config.num_attention_heads: 3 does not divide hidden_size 100",
            ),
        ] {
            let message = parse(json).expect_err("invalid").to_string();
            assert!(message.starts_with(&format!("m/config.json: {expected}")), "{message}");
        }
    }

    #[test]
    fn tensors_of_all_layouts_have_the_same_canonical_name() {
        let table = [
            (
                "language_model.model.layers.0.mlp.up_proj.weight",
                [
                    "language_model.model.layers.0.mlp.up_proj.weight",
                    "model.language_model.layers.0.mlp.up_proj.weight",
                    "model.layers.0.mlp.up_proj.weight",
                ]
                .as_slice(),
            ),
            ("language_model.lm_head.weight", &["language_model.lm_head.weight", "lm_head.weight"]),
            (
                "vision_tower.encoder.layers.1.mlp.fc1.bias",
                &[
                    "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "vision_tower.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "vision_model.encoder.layers.1.mlp.fc1.bias",
                ],
            ),
            (
                "multi_modal_projector.linear_2.bias",
                &[
                    "multi_modal_projector.linear_2.bias",
                    "model.multi_modal_projector.linear_2.bias",
                    "model.mm_projector.2.bias",
                ],
            ),
            ("image_newline", &["image_newline", "model.image_newline"]),
            (
                "language_model.model.norm.weight",
                &[
                    "language_model.model.norm.weight",
                    "model.language_model.norm.weight",
                    "model.norm.weight",
                ],
            ),
        ];
        for (canonical, stored) in table {
            for name in stored {
                assert_eq!(canonical_name(name, Family::LlavaNext.renames()), canonical, "{name}");
            }
        }
    }
}
