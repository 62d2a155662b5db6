//! Attention as operations on tensors, with gradients.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::super::storage::{f32_slice, is_supported, with_f32_slices};
use super::backward::backward;
use super::composed;
use super::forward::attend;
use super::heads::Heads;
use super::mask::Mask;
use super::query_tiles::QueryTile;
use super::spans::Span;

/// Queries `[tokens, heads * dim]` over keys and values `[tokens, kv_heads * dim]` to `[tokens, heads *
/// dim]`, with gradients for all three.
pub fn attention(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    mask: &Mask,
) -> Result<Tensor> {
    if !is_supported(queries) {
        return composed::attention(heads, (queries, keys, values), mask);
    }
    let tracked = [queries, keys, values].iter().any(|t| t.track_op());
    let op = AttentionOp {
        heads,
        spans: mask.spans().to_vec(),
        window: mask.window(),
        tracked,
        log_sums: OnceLock::new(),
    };
    let [queries, keys, values] = [queries.contiguous()?, keys.contiguous()?, values.contiguous()?];
    queries.apply_op3(&keys, &values, op)
}

/// Queries, keys and values `[sequences, tokens, heads * dim]` to the same shape; every token sees every
/// token of its sequence. It has no gradient: the vision tower is frozen.
pub(crate) fn bidirectional(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
) -> Result<Tensor> {
    let (sequences, tokens, _) = queries.dims3()?;
    if !is_supported(queries) {
        let each = (0..sequences)
            .map(|i| composed::bidirectional(heads, (&queries.get(i)?, &keys.get(i)?, &values.get(i)?)))
            .collect::<Result<Vec<_>>>()?;
        return Tensor::stack(&each, 0);
    }
    let [all_queries, keys, values] = [queries.contiguous()?, keys.contiguous()?, values.contiguous()?];
    let out = with_f32_slices([&all_queries, &keys, &values], |[queries, keys, values]| {
        let tiles = QueryTile::bidirectional(sequences, tokens);
        Ok(attend(heads, (queries, keys, values), &tiles, false).out)
    })?;
    Tensor::from_vec(out, queries.shape(), queries.device())
}

struct AttentionOp {
    heads: Heads,
    spans: Vec<Span>,
    window: Option<usize>,
    /// Whether there will be a backward pass.
    tracked: bool,
    /// `[tokens, heads]`: what the forward pass keeps for the backward pass.
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        query_layout: &Layout,
        keys: &CpuStorage,
        key_layout: &Layout,
        values: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = (
            f32_slice(queries, query_layout)?,
            f32_slice(keys, key_layout)?,
            f32_slice(values, value_layout)?,
        );
        let tiles = QueryTile::of_spans(&self.spans, self.window);
        let attended = attend(self.heads, inputs, &tiles, self.tracked);
        if let Some(log_sums) = attended.log_sums {
            let _ = self.log_sums.set(log_sums);
        }
        Ok((CpuStorage::F32(attended.out), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        out: &Tensor,
        d_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("the forward pass of attention was not tracked")
        };
        let d_out = d_out.contiguous()?;
        let gradients =
            with_f32_slices([queries, keys, values, out, &d_out], |[queries, keys, values, out, d_out]| {
                let inputs = (queries, keys, values);
                Ok(backward(self.heads, inputs, &self.spans, self.window, (out, log_sums, d_out)))
            })?;
        let like = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(like(gradients.queries, queries)?),
            Some(like(gradients.keys, keys)?),
            Some(like(gradients.values, values)?),
        ))
    }
}
