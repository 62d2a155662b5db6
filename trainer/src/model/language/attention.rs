//! Grouped-query attention.

use candle_core::{D, Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::super::Mode;
use super::super::config::TextConfig;
use super::super::linear::FrozenLinear;
use super::super::lora::{AdaptableLinear, Adapted, projection_shape};
use super::super::weights::Weights;
use super::kv_cache::LayerCache;
use super::rope::Context;
use crate::error::Result;

pub(super) struct Attention {
    q: AdaptableLinear,
    k: AdaptableLinear,
    v: AdaptableLinear,
    o: AdaptableLinear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// A frozen projection of layer `index` whose tensors start with `layer_name`.
pub(super) fn load_projection(
    weights: &Weights,
    config: &TextConfig,
    layer_name: &str,
    index: usize,
    target: LoraTarget,
    with_bias: bool,
) -> Result<AdaptableLinear> {
    let (out, input) = projection_shape(config, target);
    let name = format!("{layer_name}.{}.{}", target.block(), target.as_str());
    let bias = if with_bias { Some(weights.get(out, &format!("{name}.bias"))?) } else { None };
    let base = FrozenLinear::new(weights.get((out, input), &format!("{name}.weight"))?, bias);
    Ok(AdaptableLinear::new(base, index, target))
}

impl Attention {
    pub(super) fn load(
        weights: &Weights,
        config: &TextConfig,
        layer_name: &str,
        index: usize,
    ) -> Result<Self> {
        let projection =
            |target| load_projection(weights, config, layer_name, index, target, config.attention_bias);
        Ok(Self {
            q: projection(LoraTarget::QProj)?,
            k: projection(LoraTarget::KProj)?,
            v: projection(LoraTarget::VProj)?,
            o: projection(LoraTarget::OProj)?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        })
    }

    /// `[1, tokens, hidden]` to the same.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
        adapter: Option<Adapted<'_>>,
        mode: Mode,
    ) -> TensorResult<Tensor> {
        let (_, tokens, _) = xs.dims3()?;
        let split = |ys: Tensor, heads: usize| -> TensorResult<Tensor> {
            ys.reshape((1, tokens, heads, self.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let q = context.rotate(&split(self.q.forward(xs, adapter, mode)?, self.heads)?)?;
        let k = context.rotate(&split(self.k.forward(xs, adapter, mode)?, self.kv_heads)?)?.squeeze(0)?;
        let v = split(self.v.forward(xs, adapter, mode)?, self.kv_heads)?.squeeze(0)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let keys = k.dim(1)?;
        // Heads that share a key head lie side by side, so a group is one matrix and keys are never repeated.
        let group = self.heads / self.kv_heads;
        let q = q.reshape((self.kv_heads, group * tokens, self.head_dim))?;
        let scores = (q.matmul(&k.t()?)? * (self.head_dim as f64).powf(-0.5))?;
        let scores = match &context.mask {
            Some(mask) => scores.reshape((self.heads, tokens, keys))?.broadcast_add(mask)?,
            None => scores.reshape((self.heads, tokens, keys))?,
        };
        // transformers' softmax is in f32 whatever the scores are in.
        let wide = scores.to_dtype(candle_core::DType::F32)?;
        let shares = match mode {
            Mode::Inference | Mode::Decoding => candle_nn::ops::softmax_last_dim(&wide)?,
            Mode::Training => candle_nn::ops::softmax(&wide, D::Minus1)?,
        };
        let shares = shares.to_dtype(scores.dtype())?.reshape((self.kv_heads, group * tokens, keys))?;
        let mixed = shares
            .matmul(&v)?
            .reshape((self.heads, tokens, self.head_dim))?
            .transpose(0, 1)?
            .reshape((1, tokens, self.heads * self.head_dim))?;
        self.o.forward(&mixed, adapter, mode)
    }
}
