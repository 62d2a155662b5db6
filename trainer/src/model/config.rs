//! `config.json` of hub and original LLaVA repositories, with transformers' class defaults for what is absent.

use std::path::Path;

use serde_json::Value;

use crate::data::anyres::{DEFAULT_PINPOINTS, parse_pinpoints};
use crate::data::files::read_json;
use crate::error::{Error, Result};
use crate::kernels::swish::swish;

/// The file read.
pub const CONFIG_FILE: &str = "config.json";

/// What the model is, whatever repository it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct LlavaConfig {
    /// The vision tower; `None` where an original repository leaves it to a repository of its own.
    pub vision: Option<VisionConfig>,
    /// The name of that repository.
    pub vision_tower_name: Option<String>,
    /// The language model.
    pub text: TextConfig,
    /// The id that stands for image features in prompts.
    pub image_token_id: u32,
    /// Anyres grids as (height, width) in pixels; empty on LLaVA-1.5.
    pub grid_pinpoints: Vec<(u32, u32)>,
    /// The hidden states the features are taken from, as transformers counts them (0 is the embedding); negative
    /// counts from the end. Several are concatenated.
    pub vision_feature_layers: Vec<i64>,
    /// Whether the features keep the class token (`full`) or drop it (`default`).
    pub keep_class_token: bool,
    /// Between the projector's two layers.
    pub projector_activation: Activation,
    /// Whether the projector's layers have a bias.
    pub projector_bias: bool,
    /// Which repositories write such a file.
    pub flavour: Flavour,
}

/// Which repositories write such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// transformers' `llava`.
    Llava,
    /// transformers' `llava_next`.
    LlavaNext,
    /// haotian-liu/LLaVA.
    Original,
}

/// CLIP's vision transformer.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names of transformers' CLIPVisionConfig")]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    pub image_size: usize,
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
}

/// Llama or Mistral.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names of transformers' LlamaConfig and MistralConfig")]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Positions are divided by this (`rope_type: linear`); 1 is plain RoPE.
    pub rope_factor: f64,
    pub sliding_window: Option<usize>,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
}

/// Activation functions that LLaVA checkpoints use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(1.702 x).
    QuickGelu,
    /// x * Phi(x), by erf.
    Gelu,
    /// The tanh approximation of it.
    GeluTanh,
    /// x * sigmoid(x).
    Silu,
    /// max(0, x).
    Relu,
}

impl Activation {
    /// Applies it.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn forward(self, xs: &candle_core::Tensor) -> candle_core::Result<candle_core::Tensor> {
        match self {
            Self::QuickGelu => swish(xs, 1.702),
            Self::Gelu => xs.gelu_erf(),
            Self::GeluTanh => xs.gelu(),
            Self::Silu => swish(xs, 1.0),
            Self::Relu => xs.relu(),
        }
    }
}

impl LlavaConfig {
    /// Reads `config.json` of the model folder `dir`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field, for a missing file, an unknown architecture or a value of
    /// the wrong type.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let json = read_json(&path)?.ok_or_else(|| {
            Error::Config(format!(
                "{}: not found; the model's path must be the folder of a LLaVA checkpoint",
                path.display()
            ))
        })?;
        let json = Value::Object(json);
        Self::parse(&Fields { path: &path, prefix: "", json: &json })
    }

    fn parse(root: &Fields<'_>) -> Result<Self> {
        let model_type = root.text("model_type")?.unwrap_or_default();
        let original = root.json.get("mm_vision_tower").is_some();
        match (model_type.as_str(), original) {
            (_, true) => Self::parse_original(root),
            ("llava", false) => Self::parse_hub(root, Flavour::Llava),
            ("llava_next", false) => Self::parse_hub(root, Flavour::LlavaNext),
            (other, false) => Err(root.error(
                "model_type",
                &format!("{other:?} is not an architecture this trainer knows; use a LLaVA-1.5 (llava) or LLaVA-1.6 (llava_next) checkpoint, or an original LLaVA one"),
            )),
        }
    }

    fn parse_hub(root: &Fields<'_>, flavour: Flavour) -> Result<Self> {
        let vision = root.nested("vision_config")?.map_or_else(
            || Ok(VisionConfig::clip_vit_large_patch14_336()),
            |fields| VisionConfig::parse(&fields, &VisionConfig::clip_vit_large_patch14_336()),
        )?;
        let text = TextConfig::parse(
            &root.nested("text_config")?.unwrap_or(Fields { json: &Value::Null, ..*root }),
        )?;
        let grid_pinpoints = match flavour {
            Flavour::LlavaNext => {
                root.pinpoints("image_grid_pinpoints")?.unwrap_or_else(|| DEFAULT_PINPOINTS.to_vec())
            }
            _ => Vec::new(),
        };
        let tie = root.boolean("tie_word_embeddings")?.unwrap_or(false);
        Ok(Self {
            vision: Some(vision),
            vision_tower_name: None,
            text: TextConfig { tie_word_embeddings: text.tie_word_embeddings || tie, ..text },
            image_token_id: root
                .count("image_token_index")?
                .or(root.count("image_token_id")?)
                .unwrap_or(32000) as u32,
            grid_pinpoints,
            vision_feature_layers: root.layers("vision_feature_layer")?.unwrap_or_else(|| vec![-2]),
            keep_class_token: root.strategy("vision_feature_select_strategy")?,
            projector_activation: root.activation("projector_hidden_act")?.unwrap_or(Activation::Gelu),
            projector_bias: root.boolean("multimodal_projector_bias")?.unwrap_or(true),
            flavour,
        })
    }

    fn parse_original(root: &Fields<'_>) -> Result<Self> {
        let projector = root.text("mm_projector_type")?.unwrap_or_else(|| "linear".into());
        if projector != "mlp2x_gelu" {
            return Err(root.error(
                "mm_projector_type",
                &format!(
                    "{projector:?} is not supported; use a checkpoint with mlp2x_gelu (LLaVA-1.5 or 1.6)"
                ),
            ));
        }
        let anyres = root.text("image_aspect_ratio")?.is_some_and(|ratio| ratio.starts_with("anyres"));
        let merge = root.text("mm_patch_merge_type")?.unwrap_or_else(|| "flat".into());
        if anyres && merge != "spatial_unpad" {
            return Err(root.error(
                "mm_patch_merge_type",
                &format!("{merge:?} is not supported with anyres; use a checkpoint with spatial_unpad"),
            ));
        }
        let strategy = root.text("mm_vision_select_feature")?.unwrap_or_else(|| "patch".into());
        let grid_pinpoints = if anyres {
            root.pinpoints("image_grid_pinpoints")?.unwrap_or_else(|| DEFAULT_PINPOINTS.to_vec())
        } else {
            Vec::new()
        };
        let vision_tower_name = root.text("mm_vision_tower")?;
        let vision = match root.nested("vision_config")? {
            Some(fields) => Some(VisionConfig::parse(&fields, &VisionConfig::clip_vit_large_patch14_336())?),
            None => vision_tower_name.as_deref().and_then(VisionConfig::of_repository),
        };
        Ok(Self {
            vision,
            vision_tower_name,
            text: TextConfig::parse(root)?,
            image_token_id: root.count("image_token_index")?.unwrap_or(32000) as u32,
            grid_pinpoints,
            vision_feature_layers: root.layers("mm_vision_select_layer")?.unwrap_or_else(|| vec![-2]),
            keep_class_token: strategy == "cls_patch",
            projector_activation: Activation::Gelu,
            projector_bias: true,
            flavour: Flavour::Original,
        })
    }
}

impl VisionConfig {
    /// openai/clip-vit-large-patch14-336, which the LLaVA configs of transformers default to.
    #[must_use]
    pub const fn clip_vit_large_patch14_336() -> Self {
        Self {
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

    fn of_repository(name: &str) -> Option<Self> {
        let large = Self::clip_vit_large_patch14_336();
        match name.rsplit('/').next()? {
            "clip-vit-large-patch14-336" => Some(large),
            "clip-vit-large-patch14" => Some(Self { image_size: 224, ..large }),
            _ => None,
        }
    }

    /// Reads a CLIP config: flat, or nested under `vision_config`.
    ///
    /// # Errors
    /// As [`LlavaConfig::from_dir`].
    pub fn from_clip_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let json = Value::Object(read_json(&path)?.unwrap_or_default());
        let root = Fields { path: &path, prefix: "", json: &json };
        Self::parse(&root.nested("vision_config")?.unwrap_or(root), &Self::class_defaults())
    }

    /// transformers' `CLIPVisionConfig()`.
    const fn class_defaults() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            layer_norm_eps: 1e-5,
            hidden_act: Activation::QuickGelu,
        }
    }

    // Hub copies of LLaVA list only what differs from the class; those of LLaVA list at least the sizes.
    fn parse(fields: &Fields<'_>, llava_default: &Self) -> Result<Self> {
        let kind = fields.text("model_type")?.unwrap_or_else(|| "clip_vision_model".into());
        if !matches!(kind.as_str(), "clip_vision_model" | "clip") {
            return Err(fields.error(
                "model_type",
                &format!("{kind:?} is not a vision tower this trainer knows; use a checkpoint with CLIP's"),
            ));
        }
        let named = fields.json.get("hidden_size").is_some() || fields.json.get("patch_size").is_some();
        let default = if named { Self::class_defaults() } else { llava_default.clone() };
        let config = Self {
            hidden_size: fields.count("hidden_size")?.unwrap_or(default.hidden_size),
            intermediate_size: fields.count("intermediate_size")?.unwrap_or(default.intermediate_size),
            num_hidden_layers: fields.count("num_hidden_layers")?.unwrap_or(default.num_hidden_layers),
            num_attention_heads: fields.count("num_attention_heads")?.unwrap_or(default.num_attention_heads),
            num_channels: fields.count("num_channels")?.unwrap_or(default.num_channels),
            image_size: fields.count("image_size")?.unwrap_or(default.image_size),
            patch_size: fields.count("patch_size")?.unwrap_or(default.patch_size),
            layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(default.layer_norm_eps),
            hidden_act: fields.activation("hidden_act")?.unwrap_or(default.hidden_act),
        };
        fields.divides(
            "num_attention_heads",
            config.num_attention_heads,
            "hidden_size",
            config.hidden_size,
        )?;
        if config.patch_size == 0 || config.patch_size > config.image_size {
            return Err(fields.error("patch_size", "must be between 1 and image_size"));
        }
        Ok(config)
    }
}

impl TextConfig {
    fn parse(fields: &Fields<'_>) -> Result<Self> {
        let kind = fields.text("model_type")?.unwrap_or_else(|| "llama".into());
        let mistral = match kind.as_str() {
            "llama" | "llava" | "llava_llama" => false,
            "mistral" | "llava_mistral" => true,
            other => {
                return Err(fields.error(
                    "model_type",
                    &format!(
                        "{other:?} is not a language model this trainer knows; use llama (Vicuna) or mistral"
                    ),
                ));
            }
        };
        let hidden_size = fields.count("hidden_size")?.unwrap_or(4096);
        let num_attention_heads = fields.count("num_attention_heads")?.unwrap_or(32);
        let num_key_value_heads =
            fields.count("num_key_value_heads")?.unwrap_or(if mistral { 8 } else { num_attention_heads });
        let head_dim = match fields.count("head_dim")? {
            Some(dim) => dim,
            None => {
                fields.divides("num_attention_heads", num_attention_heads, "hidden_size", hidden_size)?;
                hidden_size / num_attention_heads
            }
        };
        fields.divides(
            "num_key_value_heads",
            num_key_value_heads,
            "num_attention_heads",
            num_attention_heads,
        )?;
        let (rope_theta, rope_factor) = fields.rope()?;
        let act = fields.activation("hidden_act")?.unwrap_or(Activation::Silu);
        if act != Activation::Silu {
            return Err(fields.error("hidden_act", "only silu is supported in the language model"));
        }
        Ok(Self {
            vocab_size: fields.count("vocab_size")?.unwrap_or(32000),
            hidden_size,
            intermediate_size: fields.count("intermediate_size")?.unwrap_or(if mistral {
                14336
            } else {
                11008
            }),
            num_hidden_layers: fields.count("num_hidden_layers")?.unwrap_or(32),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: fields.count("max_position_embeddings")?.unwrap_or(if mistral {
                4096 * 32
            } else {
                2048
            }),
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_factor,
            sliding_window: if mistral { fields.sliding_window()? } else { None },
            attention_bias: !mistral && fields.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: !mistral && fields.boolean("mlp_bias")?.unwrap_or(false),
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

/// One JSON object of a config file, with the names its errors need.
#[derive(Clone, Copy)]
struct Fields<'a> {
    path: &'a Path,
    prefix: &'static str,
    json: &'a Value,
}

impl<'a> Fields<'a> {
    fn error(&self, key: &str, reason: &str) -> Error {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        Error::Config(format!("{}: field {}{dot}{key}: {reason}", self.path.display(), self.prefix))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn nested(&self, key: &'static str) -> Result<Option<Self>> {
        match self.get(key) {
            Some(json) if !json.is_object() => Err(self.error(key, "must be an object")),
            found => Ok(found.map(|json| Self { path: self.path, prefix: key, json })),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key)
            .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| self.error(key, "must be a string")))
            .transpose()
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                v.as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| (1..=1 << 30).contains(n))
                    .ok_or_else(|| self.error(key, "must be a positive whole number"))
            })
            .transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.error(key, "must be a number"))).transpose()
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.error(key, "must be true or false"))).transpose()
    }

    fn activation(&self, key: &str) -> Result<Option<Activation>> {
        self.text(key)?
            .map(|name| match name.as_str() {
                "quick_gelu" => Ok(Activation::QuickGelu),
                "gelu" => Ok(Activation::Gelu),
                "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
                "silu" | "swish" => Ok(Activation::Silu),
                "relu" => Ok(Activation::Relu),
                other => Err(self.error(key, &format!("{other:?} is not an activation this trainer knows"))),
            })
            .transpose()
    }

    fn layers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let invalid = || self.error(key, "must be a whole number or a list of them");
        self.get(key)
            .map(|v| match v {
                Value::Array(items) if items.is_empty() => Err(invalid()),
                Value::Array(items) => items.iter().map(|i| i.as_i64().ok_or_else(invalid)).collect(),
                other => other.as_i64().map(|i| vec![i]).ok_or_else(invalid),
            })
            .transpose()
    }

    fn strategy(&self, key: &str) -> Result<bool> {
        match self.text(key)?.as_deref() {
            None | Some("default") => Ok(false),
            Some("full") => Ok(true),
            Some(other) => Err(self.error(key, &format!("{other:?} must be default or full"))),
        }
    }

    fn pinpoints(&self, key: &str) -> Result<Option<Vec<(u32, u32)>>> {
        self.get(key)
            .map(|value| {
                parse_pinpoints(value)
                    .filter(|list| !list.is_empty())
                    .ok_or_else(|| self.error(key, "must be a list of [height, width] in pixels"))
            })
            .transpose()
    }

    fn sliding_window(&self) -> Result<Option<usize>> {
        // Absent means the class default of Mistral, 4096; null means none.
        match self.json.get("sliding_window") {
            None if self.json.is_object() => Ok(Some(4096)),
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.count("sliding_window"),
        }
    }

    fn rope(&self) -> Result<(f64, f64)> {
        let nested = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        let inner = nested.map(|json| Self { json, ..*self });
        let theta = match inner {
            Some(fields) => fields.number("rope_theta")?,
            None => None,
        };
        let theta = theta.or(self.number("rope_theta")?).unwrap_or(10_000.0);
        let Some(fields) = inner else { return Ok((theta, 1.0)) };
        let kind = fields.text("rope_type")?.or(fields.text("type")?).unwrap_or_else(|| "default".into());
        match kind.as_str() {
            "default" => Ok((theta, 1.0)),
            "linear" => Ok((theta, fields.number("factor")?.unwrap_or(1.0))),
            other => Err(self.error(
                "rope_parameters.rope_type",
                &format!("{other:?} is not supported; LLaVA checkpoints use default or linear"),
            )),
        }
    }

    fn divides(&self, a: &str, divisor: usize, b: &str, number: usize) -> Result<()> {
        if number.is_multiple_of(divisor) {
            return Ok(());
        }
        Err(self.error(
            a,
            &format!("{divisor} does not divide {b} {number}; the config is not that of a checkpoint"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<LlavaConfig> {
        let json: Value = serde_json::from_str(json).expect("the test's JSON");
        LlavaConfig::parse(&Fields { path: Path::new("m/config.json"), prefix: "", json: &json })
    }

    #[test]
    fn hub_configs_leave_class_defaults_out() {
        let c = parse(
            r#"{"model_type":"llava_next","image_token_index":32000,"text_config":{"model_type":"mistral",
            "intermediate_size":14336,"num_key_value_heads":8,"rope_theta":1e6,"sliding_window":null,
            "max_position_embeddings":32768,"vocab_size":32064,"rms_norm_eps":1e-5},
            "vision_config":{"hidden_size":1024,"image_size":336,"intermediate_size":4096,"num_attention_heads":16,
            "num_hidden_layers":24,"patch_size":14,"projection_dim":768}}"#,
        )
        .expect("valid");
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
        assert_eq!(c.flavour, Flavour::Original);
        assert_eq!(c.grid_pinpoints, vec![(336, 672), (672, 336)]);
        assert_eq!(c.vision, Some(VisionConfig::clip_vit_large_patch14_336()));
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        let message = |json: &str| parse(json).expect_err("invalid").to_string();
        assert!(
            message(r#"{"model_type":"qwen2_vl"}"#)
                .starts_with("m/config.json: field model_type: \"qwen2_vl\"")
        );
        let nested = message(r#"{"model_type":"llava","text_config":{"hidden_size":"x"}}"#);
        assert!(
            nested.contains("field text_config.hidden_size: must be a positive whole number"),
            "{nested}"
        );
        let siglip =
            message(r#"{"model_type":"llava","vision_config":{"model_type":"siglip_vision_model"}}"#);
        assert!(siglip.contains("field vision_config.model_type: \"siglip_vision_model\""), "{siglip}");
        let heads =
            message(r#"{"model_type":"llava","text_config":{"hidden_size":100,"num_attention_heads":3}}"#);
        assert!(heads.contains("does not divide hidden_size 100"), "{heads}");
    }
}
