//! The vision tower's config: nested in `config.json`, or a CLIP repository's own.

use std::path::Path;

use super::activation::Activation;
use crate::data::fields::Fields;
use crate::data::files::{CONFIG_FILE, read_json};
use crate::error::Result;

/// The architecture of a vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionTowerKind {
    /// transformers' `CLIPVisionModel`.
    Clip,
}

impl VisionTowerKind {
    /// The values of `model_type` for this kind; an absent `model_type` means the first.
    const fn model_types(self) -> [&'static str; 2] {
        match self {
            Self::Clip => ["clip_vision_model", "clip"],
        }
    }

    /// transformers' `CLIPVisionConfig()`.
    const fn class_defaults(self) -> VisionConfig {
        match self {
            Self::Clip => VisionConfig {
                kind: self,
                hidden_size: 768,
                intermediate_size: 3072,
                num_hidden_layers: 12,
                num_attention_heads: 12,
                num_channels: 3,
                image_size: 224,
                patch_size: 32,
                layer_norm_eps: 1e-5,
                hidden_act: Activation::QuickGelu,
            },
        }
    }
}

/// The sizes of a vision transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    pub kind: VisionTowerKind,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// The side of a crop, in pixels.
    pub image_size: usize,
    /// The side of a patch, in pixels.
    pub patch_size: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: Activation,
}

impl VisionConfig {
    /// Patches along one side of a crop.
    #[must_use]
    pub const fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// openai/clip-vit-large-patch14-336, which the LLaVA configs of transformers default to.
    pub(in crate::model) const fn clip_vit_large_patch14_336() -> Self {
        Self {
            kind: VisionTowerKind::Clip,
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 336,
            patch_size: 14,
            layer_norm_eps: 1e-5,
            hidden_act: Activation::QuickGelu,
        }
    }

    /// The config of a published repository that is not copied into the model's folder.
    pub(in crate::model) fn of_repository(name: &str) -> Option<Self> {
        let large = Self::clip_vit_large_patch14_336();
        match name.rsplit('/').next()? {
            "clip-vit-large-patch14-336" => Some(large),
            "clip-vit-large-patch14" => Some(Self { image_size: 224, ..large }),
            _ => None,
        }
    }

    /// Reads the config of a vision tower's own repository: flat, or nested under `vision_config`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the file and the field.
    pub fn from_tower_dir(dir: &Path, kind: VisionTowerKind) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let object = read_json(&path)?.unwrap_or_default();
        let root = Fields::new(&path, &object);
        Self::read(&root.nested("vision_config")?.unwrap_or(root), &kind.class_defaults())
    }

    /// Reads a tower of the kind of `family_default`. That default applies where the config does not even name the
    /// sizes; where it does, what it leaves out takes the class default.
    pub(in crate::model) fn read(fields: &Fields<'_>, family_default: &Self) -> Result<Self> {
        let kind = family_default.kind;
        let accepted = kind.model_types();
        if fields.text("model_type")?.is_some_and(|model_type| !accepted.contains(&model_type)) {
            return Err(fields.wrong(
                "model_type",
                &format!("{}; use a checkpoint with such a vision tower", accepted.join(" or ")),
            ));
        }
        let sizes_named = fields.raw("hidden_size").is_some() || fields.raw("patch_size").is_some();
        let default = if sizes_named { kind.class_defaults() } else { family_default.clone() };
        let config = Self {
            kind,
            hidden_size: fields.count("hidden_size")?.unwrap_or(default.hidden_size),
            intermediate_size: fields.count("intermediate_size")?.unwrap_or(default.intermediate_size),
            num_hidden_layers: fields.count("num_hidden_layers")?.unwrap_or(default.num_hidden_layers),
            num_attention_heads: fields.count("num_attention_heads")?.unwrap_or(default.num_attention_heads),
            num_channels: fields.count("num_channels")?.unwrap_or(default.num_channels),
            image_size: fields.count("image_size")?.unwrap_or(default.image_size),
            patch_size: fields.count("patch_size")?.unwrap_or(default.patch_size),
            layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(default.layer_norm_eps),
            hidden_act: Activation::read(fields, "hidden_act")?.unwrap_or(default.hidden_act),
        };
        fields.require_divides(
            "num_attention_heads",
            config.num_attention_heads,
            "hidden_size",
            config.hidden_size,
        )?;
        // Images are decoded to RGB.
        if config.num_channels != 3 {
            return Err(
                fields.wrong("num_channels", "3; use a checkpoint whose vision tower takes RGB images")
            );
        }
        if config.patch_size == 0 || config.patch_size > config.image_size {
            return Err(
                fields.wrong("patch_size", &format!("between 1 and image_size {}", config.image_size))
            );
        }
        Ok(config)
    }
}
