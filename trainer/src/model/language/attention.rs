//! Grouped-query attention.

use candle_core::{Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::kv_cache::{CachedLayer, Projected, decode, extend};
use super::rope::PassContext;
use crate::error::Result;
use crate::kernels::attention::{Heads, attention};
use crate::model::config::TextConfig;
use crate::model::linear::FrozenLinear;
use crate::model::lora::{ActiveAdapter, AdaptableLinear, projection_shape};
use crate::model::mode::Mode;
use crate::model::weights::Weights;

pub(super) struct SelfAttention {
    q: AdaptableLinear,
    k: AdaptableLinear,
    v: AdaptableLinear,
    o: AdaptableLinear,
    heads: Heads,
}

/// The cached tokens that those of a pass attend to.
pub(super) enum Past<'s, 'c> {
    Nothing,
    /// All tokens continue one sequence.
    Sequence(CachedLayer<'c>),
    /// Each token continues a sequence of its own.
    Rows(&'s mut [CachedLayer<'c>]),
}

/// A frozen projection of layer `index`, whose tensors start with `layer_name`.
pub(super) fn load_projection(
    weights: &Weights,
    config: &TextConfig,
    layer_name: &str,
    index: usize,
    target: LoraTarget,
) -> Result<AdaptableLinear> {
    let (out, input) = projection_shape(config, target);
    let name = format!("{layer_name}.{}.{}", target.block(), target.as_str());
    let bias =
        if config.biased.contains(&target) { Some(weights.get(out, &format!("{name}.bias"))?) } else { None };
    let base = FrozenLinear::new(weights.get((out, input), &format!("{name}.weight"))?, bias);
    Ok(AdaptableLinear::new(base, index, target))
}

impl SelfAttention {
    pub(super) fn load(
        weights: &Weights,
        config: &TextConfig,
        layer_name: &str,
        index: usize,
    ) -> Result<Self> {
        let projection = |target| load_projection(weights, config, layer_name, index, target);
        Ok(Self {
            q: projection(LoraTarget::QProj)?,
            k: projection(LoraTarget::KProj)?,
            v: projection(LoraTarget::VProj)?,
            o: projection(LoraTarget::OProj)?,
            heads: Heads {
                queries: config.num_attention_heads,
                keys: config.num_key_value_heads,
                dim: config.head_dim,
            },
        })
    }

    /// Appends keys and values of `[1, tokens, hidden]` to `cached` and computes nothing else.
    pub(super) fn fill(
        &self,
        xs: &Tensor,
        context: &PassContext,
        cached: &mut CachedLayer<'_>,
        adapter: Option<ActiveAdapter<'_>>,
    ) -> TensorResult<()> {
        let project = |layer: &AdaptableLinear| layer.forward(xs, adapter, Mode::Inference);
        let keys = context.rotate(&project(&self.k)?, self.heads.keys)?;
        cached.fill(self.heads, &keys, &project(&self.v)?.contiguous()?)
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
        let project = |layer: &AdaptableLinear| layer.forward(xs, adapter, mode);
        let new = Projected {
            queries: context.rotate(&project(&self.q)?, self.heads.queries)?,
            keys: context.rotate(&project(&self.k)?, self.heads.keys)?,
            values: project(&self.v)?.contiguous()?,
        };
        let mixed = match past {
            Past::Nothing => {
                let inputs = (&new.queries, &new.keys, &new.values);
                attention(self.heads, inputs, &context.mask)?
            }
            Past::Sequence(cached) => extend(cached, self.heads, &new, &context.mask)?,
            Past::Rows(cached) => decode(cached, self.heads, &new, context.mask.window())?,
        };
        self.o.forward(&mixed, adapter, mode)
    }
}
