//! The language model's config: Llama's or Mistral's.

use stic_contract::recipe::LoraTarget;

use super::activation::Activation;
use crate::data::fields::Fields;
use crate::error::Result;

/// The sizes of a decoder-only language model.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// The most tokens of a sequence.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Positions are divided by this (`rope_type: linear`); 1 is plain RoPE.
    pub rope_factor: f64,
    /// How many tokens back a token attends, itself included; `None` for all.
    pub sliding_window: Option<usize>,
    /// The projections that have a bias.
    pub biased: Vec<LoraTarget>,
    pub tie_word_embeddings: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Mistral,
}

impl Architecture {
    fn of(fields: &Fields<'_>) -> Result<Self> {
        match fields.text("model_type")? {
            None | Some("llama" | "llava" | "llava_llama") => Ok(Self::Llama),
            Some("mistral" | "llava_mistral") => Ok(Self::Mistral),
            Some(_) => Err(fields.wrong(
                "model_type",
                "llama or mistral; use a checkpoint with such a language model (Vicuna is a llama)",
            )),
        }
    }

    /// transformers' `LlamaConfig()` or `MistralConfig()`.
    const fn class_defaults(self) -> ClassDefaults {
        match self {
            Self::Llama => ClassDefaults {
                intermediate_size: 11008,
                num_key_value_heads: None,
                max_position_embeddings: 2048,
                sliding_window: None,
            },
            Self::Mistral => ClassDefaults {
                intermediate_size: 14336,
                num_key_value_heads: Some(8),
                max_position_embeddings: 4096 * 32,
                sliding_window: Some(4096),
            },
        }
    }

    /// Mistral has no biases, whatever its config says.
    fn biased(self, fields: &Fields<'_>) -> Result<Vec<LoraTarget>> {
        if self == Self::Mistral {
            return Ok(Vec::new());
        }
        let attention = fields.boolean("attention_bias")?.unwrap_or(false);
        let mlp = fields.boolean("mlp_bias")?.unwrap_or(false);
        let has_bias = |target: &LoraTarget| if target.block() == "mlp" { mlp } else { attention };
        Ok(LoraTarget::ALL.into_iter().filter(has_bias).collect())
    }
}

/// Defaults that differ between the architectures.
struct ClassDefaults {
    intermediate_size: usize,
    /// `None`: as many as attention heads.
    num_key_value_heads: Option<usize>,
    max_position_embeddings: usize,
    sliding_window: Option<usize>,
}

impl TextConfig {
    pub(in crate::model) fn read(fields: &Fields<'_>) -> Result<Self> {
        let architecture = Architecture::of(fields)?;
        let defaults = architecture.class_defaults();
        let hidden_size = fields.count("hidden_size")?.unwrap_or(4096);
        let num_attention_heads = fields.count("num_attention_heads")?.unwrap_or(32);
        let num_key_value_heads = fields
            .count("num_key_value_heads")?
            .unwrap_or(defaults.num_key_value_heads.unwrap_or(num_attention_heads));
        let head_dim = match fields.count("head_dim")? {
            Some(dim) => dim,
            None => {
                fields.require_divides(
                    "num_attention_heads",
                    num_attention_heads,
                    "hidden_size",
                    hidden_size,
                )?;
                hidden_size / num_attention_heads
            }
        };
        fields.require_divides(
            "num_key_value_heads",
            num_key_value_heads,
            "num_attention_heads",
            num_attention_heads,
        )?;
        if !head_dim.is_multiple_of(2) {
            return Err(fields.error(
                "head_dim",
                &format!("{head_dim} is odd, but positions turn pairs of it; copy the file from the model's repository again"),
            ));
        }
        let (rope_theta, rope_factor) = rope(fields)?;
        for (field, value) in [("rope_theta", rope_theta), ("rope_parameters.factor", rope_factor)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(fields.error(
                    field,
                    &format!("{value} is not above 0; copy the file from the model's repository again"),
                ));
            }
        }
        if Activation::read(fields, "hidden_act")?.is_some_and(|act| act != Activation::Silu) {
            return Err(fields.wrong("hidden_act", "silu; use a checkpoint whose language model has it"));
        }
        Ok(Self {
            vocab_size: fields.count("vocab_size")?.unwrap_or(32000),
            hidden_size,
            intermediate_size: fields.count("intermediate_size")?.unwrap_or(defaults.intermediate_size),
            num_hidden_layers: fields.count("num_hidden_layers")?.unwrap_or(32),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: fields
                .count("max_position_embeddings")?
                .unwrap_or(defaults.max_position_embeddings),
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_factor,
            sliding_window: sliding_window(fields, defaults.sliding_window)?,
            biased: architecture.biased(fields)?,
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

/// Absent means the class default, and `null` means none. An architecture without a default has no window at all.
fn sliding_window(fields: &Fields<'_>, default: Option<usize>) -> Result<Option<usize>> {
    match (default, fields.raw("sliding_window")) {
        (None, _) => Ok(None),
        (Some(_), None) => Ok(default),
        (Some(_), Some(_)) => fields.count("sliding_window"),
    }
}

/// (theta, factor) from `rope_parameters` of transformers 5, else from `rope_scaling` and `rope_theta`.
fn rope(fields: &Fields<'_>) -> Result<(f64, f64)> {
    let inner = fields.inlined("rope_parameters").or_else(|| fields.inlined("rope_scaling"));
    let theta = match inner {
        Some(inner) => inner.number("rope_theta")?,
        None => None,
    };
    let theta = theta.or(fields.number("rope_theta")?).unwrap_or(10_000.0);
    let Some(inner) = inner else { return Ok((theta, 1.0)) };
    match inner.text("rope_type")?.or(inner.text("type")?).unwrap_or("default") {
        "default" => Ok((theta, 1.0)),
        "linear" => Ok((theta, inner.number("factor")?.unwrap_or(1.0))),
        other => Err(fields.error(
            "rope_parameters.rope_type",
            &format!("{other:?} is not supported; use a checkpoint with default or linear"),
        )),
    }
}
