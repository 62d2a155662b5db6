//! Attention in blocks: no matrix of all scores ever exists, and each query meets only the blocks it sees a key of.
//!
//! f32 on a CPU. Everything else is composed of the tensor library's own operations, in [`composed`].

mod backward;
mod block;
mod cache;
pub(crate) mod composed;
mod forward;
mod spans;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use self::block::BLOCK;
use super::buffer::Buffer;
use super::numbers::{numbers, takes, with_numbers};

pub(crate) use self::cache::{Panels, Row, decode, extend};
pub use self::spans::Span;

#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

/// Heads of queries, heads of keys and values (a divisor), and the width of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) dim: usize,
}

impl Heads {
    /// What scores are multiplied by.
    pub(crate) fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Queries `[tokens, heads * dim]` over keys and values `[tokens, kv_heads * dim]` to `[tokens, heads * dim]`, with
/// gradients for all three. `spans` follow each other and cover all queries.
pub(crate) fn attention(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    spans: &[Span],
    window: Option<usize>,
) -> Result<Tensor> {
    if !takes(queries) {
        return composed::attention(heads, (queries, keys, values), spans, window);
    }
    let tracked = [queries, keys, values].iter().any(|t| t.track_op());
    let op = Attention { heads, spans: spans.to_vec(), window, tracked, log_sums: OnceLock::new() };
    let [queries, keys, values] = [queries.contiguous()?, keys.contiguous()?, values.contiguous()?];
    queries.apply_op3(&keys, &values, op)
}

/// Queries, keys and values `[sequences, tokens, heads * dim]` to the same: every token sees every one of its sequence.
/// Without a gradient: it is for the frozen vision tower.
pub(crate) fn bidirectional(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
) -> Result<Tensor> {
    let (sequences, tokens, _) = queries.dims3()?;
    if !takes(queries) {
        let each = (0..sequences)
            .map(|i| composed::everyone(heads, (&queries.get(i)?, &keys.get(i)?, &values.get(i)?)))
            .collect::<Result<Vec<_>>>()?;
        return Tensor::stack(&each, 0);
    }
    let [all_queries, keys, values] = [queries.contiguous()?, keys.contiguous()?, values.contiguous()?];
    let out = with_numbers([&all_queries, &keys, &values], |[queries, keys, values]| {
        let tasks = forward::everyone(sequences, tokens);
        Ok(forward::attend(heads, (queries, keys, values), &tasks, false).out)
    })?;
    Tensor::from_vec(out, queries.shape(), queries.device())
}

struct Attention {
    heads: Heads,
    spans: Vec<Span>,
    window: Option<usize>,
    /// Whether a gradient can be asked for.
    tracked: bool,
    /// `[tokens, heads]`: what the forward pass leaves for the backward one.
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp3 for Attention {
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
        let inputs =
            (numbers(queries, query_layout)?, numbers(keys, key_layout)?, numbers(values, value_layout)?);
        let tasks = forward::tasks(&self.spans, self.window);
        let attended = forward::attend(self.heads, inputs, &tasks, self.tracked);
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
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("attention was run without a gradient in view")
        };
        let slope = slope.contiguous()?;
        let found =
            with_numbers([queries, keys, values, out, &slope], |[queries, keys, values, out, slope]| {
                let inputs = (queries, keys, values);
                Ok(backward::slopes(self.heads, inputs, &self.spans, self.window, (out, log_sums, slope)))
            })?;
        let like = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(like(found.queries, queries)?),
            Some(like(found.keys, keys)?),
            Some(like(found.values, values)?),
        ))
    }
}

/// `[keys, heads, dim]` to panels `[heads, blocks, dim, BLOCK]`, what is beyond the last key zero.
fn pack_panels(rows: &[f32], heads: usize, dim: usize) -> Buffer {
    pack(rows, heads, dim, put_column)
}

/// `[keys, heads, dim]` to `[heads, blocks, BLOCK, dim]`: rows of one head, which lie a power of two apart, would take
/// each other's place in the cache.
fn pack_rows(rows: &[f32], heads: usize, dim: usize) -> Buffer {
    pack(rows, heads, dim, put_row)
}

/// `row` as a column of a block `[dim, BLOCK]`.
fn put_column(block: &mut [f32], column: usize, row: &[f32]) {
    for (d, value) in row.iter().enumerate() {
        block[d * BLOCK + column] = *value;
    }
}

/// `row` as a row of a block `[BLOCK, dim]`.
fn put_row(block: &mut [f32], place: usize, row: &[f32]) {
    block[place * row.len()..][..row.len()].copy_from_slice(row);
}

/// Blocks of keys of one head, as `put` places each of them; what is beyond the last key is zero.
fn pack(
    rows: &[f32],
    heads: usize,
    dim: usize,
    put: impl Fn(&mut [f32], usize, &[f32]) + Send + Sync,
) -> Buffer {
    let width = heads * dim;
    let count = rows.len() / width.max(1);
    let blocks = count.div_ceil(BLOCK);
    let mut packed = Buffer::zeros(heads * blocks * dim * BLOCK);
    packed.par_chunks_mut(dim * BLOCK).enumerate().for_each(|(index, packed)| {
        let (head, first) = (index / blocks, index % blocks * BLOCK);
        for place in 0..BLOCK.min(count - first) {
            put(packed, place, &rows[(first + place) * width + head * dim..][..dim]);
        }
    });
    packed
}
