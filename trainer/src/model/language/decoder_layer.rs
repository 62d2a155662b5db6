//! One decoder layer.

use candle_core::{Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::super::Mode;
use super::super::config::TextConfig;
use super::super::lora::{AdaptableLinear, Adapted};
use super::super::weights::Weights;
use super::attention::{Attention, Past, load_projection};
use super::norm::RmsNorm;
use super::rope::Context;
use crate::error::Result;

pub(super) struct DecoderLayer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    gate: AdaptableLinear,
    up: AdaptableLinear,
    down: AdaptableLinear,
}

impl DecoderLayer {
    pub(super) fn load(weights: &Weights, config: &TextConfig, name: &str, index: usize) -> Result<Self> {
        let projection = |target| load_projection(weights, config, name, index, target, config.mlp_bias);
        Ok(Self {
            input_norm: RmsNorm::load(weights, config, &format!("{name}.input_layernorm.weight"))?,
            attention: Attention::load(weights, config, name, index)?,
            post_attention_norm: RmsNorm::load(
                weights,
                config,
                &format!("{name}.post_attention_layernorm.weight"),
            )?,
            gate: projection(LoraTarget::GateProj)?,
            up: projection(LoraTarget::UpProj)?,
            down: projection(LoraTarget::DownProj)?,
        })
    }

    /// `[1, tokens, hidden]` to the same.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        context: &Context,
        past: &mut Past<'_, '_>,
        adapter: Option<Adapted<'_>>,
        mode: Mode,
    ) -> TensorResult<Tensor> {
        let normed = self.input_norm.forward(xs, mode)?;
        let xs = (xs + self.attention.forward(&normed, context, past, adapter, mode)?)?;
        let normed = self.post_attention_norm.forward(&xs, mode)?;
        let gate = self.gate.forward(&normed, adapter, mode)?.silu()?;
        let inner = (gate * self.up.forward(&normed, adapter, mode)?)?;
        &xs + self.down.forward(&inner, adapter, mode)?
    }
}
