//! One decoder layer.

use candle_core::{Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::super::Mode;
use super::super::config::TextConfig;
use super::super::lora::{AdaptableLinear, Adapted};
use super::super::weights::Weights;
use super::attention::{Attention, Past, load_projection};
use super::kv_cache::Slot;
use super::norm::RmsNorm;
use super::rope::Context;
use crate::error::Result;
use crate::kernels::swish::swiglu;

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

    /// Leaves keys and values of `[1, tokens, hidden]` in `slot`: all that is needed of the last layer for tokens after
    /// which nothing is predicted.
    pub(super) fn fill(
        &self,
        xs: &Tensor,
        context: &Context,
        slot: &mut Slot<'_>,
        adapter: Option<Adapted<'_>>,
    ) -> TensorResult<()> {
        self.attention.fill(&self.input_norm.forward(xs)?, context, slot, adapter)
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
        let normed = self.input_norm.forward(xs)?;
        let xs = (xs + self.attention.forward(&normed, context, past, adapter, mode)?)?;
        let normed = self.post_attention_norm.forward(&xs)?;
        let gate = self.gate.forward(&normed, adapter, mode)?;
        let inner = swiglu(&gate, &self.up.forward(&normed, adapter, mode)?)?;
        &xs + self.down.forward(&inner, adapter, mode)?
    }
}
