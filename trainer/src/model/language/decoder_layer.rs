//! One decoder layer.

use candle_core::{Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::attention::{Past, SelfAttention, load_projection};
use super::kv_cache::CachedLayer;
use super::norm::FrozenRmsNorm;
use super::rope::PassContext;
use crate::error::Result;
use crate::kernels::swish::swiglu;
use crate::model::config::TextConfig;
use crate::model::lora::{ActiveAdapter, AdaptableLinear};
use crate::model::mode::Mode;
use crate::model::weights::Weights;

pub(super) struct DecoderLayer {
    input_norm: FrozenRmsNorm,
    attention: SelfAttention,
    post_attention_norm: FrozenRmsNorm,
    gate: AdaptableLinear,
    up: AdaptableLinear,
    down: AdaptableLinear,
}

impl DecoderLayer {
    pub(super) fn load(weights: &Weights, config: &TextConfig, name: &str, index: usize) -> Result<Self> {
        let projection = |target| load_projection(weights, config, name, index, target);
        Ok(Self {
            input_norm: FrozenRmsNorm::load(weights, config, &format!("{name}.input_layernorm.weight"))?,
            attention: SelfAttention::load(weights, config, name, index)?,
            post_attention_norm: FrozenRmsNorm::load(
                weights,
                config,
                &format!("{name}.post_attention_layernorm.weight"),
            )?,
            gate: projection(LoraTarget::GateProj)?,
            up: projection(LoraTarget::UpProj)?,
            down: projection(LoraTarget::DownProj)?,
        })
    }

    /// Appends keys and values of `[1, tokens, hidden]` to `cached`, which is all that the last layer must do for tokens
    /// after which nothing is predicted.
    pub(super) fn fill(
        &self,
        xs: &Tensor,
        context: &PassContext,
        cached: &mut CachedLayer<'_>,
        adapter: Option<ActiveAdapter<'_>>,
    ) -> TensorResult<()> {
        self.attention.fill(&self.input_norm.forward(xs)?, context, cached, adapter)
    }

    /// `[1, tokens, hidden]` to the same.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        context: &PassContext,
        past: &mut Past<'_, '_>,
        adapter: Option<ActiveAdapter<'_>>,
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
