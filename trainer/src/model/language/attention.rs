//! Grouped-query attention.

use candle_core::{Result as TensorResult, Tensor};
use stic_contract::recipe::LoraTarget;

use super::super::Mode;
use super::super::config::TextConfig;
use super::super::linear::FrozenLinear;
use super::super::lora::{AdaptableLinear, Adapted, projection_shape};
use super::super::weights::Weights;
use super::kv_cache::{Projected, Slot, decode, extend};
use super::rope::Context;
use crate::error::Result;
use crate::kernels::attention::{Heads, attention};

pub(super) struct Attention {
    q: AdaptableLinear,
    k: AdaptableLinear,
    v: AdaptableLinear,
    o: AdaptableLinear,
    heads: Heads,
}

/// What the tokens of a pass see beside each other.
pub(super) enum Past<'s, 'c> {
    /// Nothing: the pass is a whole.
    Nothing,
    /// The sequence that they go on.
    Sequence(Slot<'c>),
    /// Each the sequence of its own.
    Rows(&'s mut [Slot<'c>]),
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
            heads: Heads {
                queries: config.num_attention_heads,
                keys: config.num_key_value_heads,
                dim: config.head_dim,
            },
        })
    }

    /// Leaves keys and values of `[1, tokens, hidden]` in `slot` and computes nothing else.
    pub(super) fn fill(
        &self,
        xs: &Tensor,
        context: &Context,
        slot: &mut Slot<'_>,
        adapter: Option<Adapted<'_>>,
    ) -> TensorResult<()> {
        let project = |layer: &AdaptableLinear| layer.forward(xs, adapter, Mode::Inference);
        let keys = context.rotate(&project(&self.k)?, self.heads.keys)?;
        slot.fill(self.heads, &keys, &project(&self.v)?.contiguous()?)
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
        let project = |layer: &AdaptableLinear| layer.forward(xs, adapter, mode);
        let new = Projected {
            queries: context.rotate(&project(&self.q)?, self.heads.queries)?,
            keys: context.rotate(&project(&self.k)?, self.heads.keys)?,
            values: project(&self.v)?.contiguous()?,
        };
        let window = context.sliding_window;
        let mixed = match past {
            Past::Nothing => {
                let inputs = (&new.queries, &new.keys, &new.values);
                attention(self.heads, inputs, &context.spans, window)?
            }
            Past::Sequence(slot) => extend(slot, self.heads, &new, window)?,
            Past::Rows(slots) => decode(slots, self.heads, &new, window)?,
        };
        self.o.forward(&mixed, adapter, mode)
    }
}
