//! Attention over the KV cache, for prefill and for decoding (FlashDecoding: the keys are split, and the
//! partial results combined).

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::aligned_buffer::AlignedBuffer;
use super::super::micro_kernel::prefetch_steps;
use super::super::prefetch::LinePrefetch;
use super::super::vector_math::exp;
use super::forward::attend_blocks;
use super::heads::Heads;
use super::online_softmax::{OnlineSoftmax, add_block, scale};
use super::packed_kv::PackedKv;
use super::packing::{KEY_BLOCK, KvBlocks};
use super::query_tiles::QueryTile;
use super::spans::KeyRange;

/// Blocks of a split. It is a constant because partial results are combined split by split: another number is
/// another order of the sum, and other bits.
const SPLIT_BLOCKS: usize = 16;

/// The keys that tokens see which are in `own` from index `first` on: all shared ones, and their own up to
/// themselves.
fn key_ranges(shared: Option<&PackedKv>, first: usize, window: Option<usize>) -> Vec<KeyRange> {
    let before = shared.map_or(0, PackedKv::len);
    let context = (before > 0).then(|| KeyRange::fixed(0..before, before + first, window));
    context.into_iter().chain([KeyRange::causal_from_zero(first, window)]).collect()
}

/// Queries `[tokens, heads, dim]`, which belong to the last tokens of `own`, over `shared` and then `own`, to
/// `[tokens, heads, dim]`.
pub(crate) fn extend(
    heads: Heads,
    queries: &[f32],
    shared: Option<&PackedKv>,
    own: &PackedKv,
    window: Option<usize>,
) -> Vec<f32> {
    let tokens = queries.len() / (heads.queries * heads.dim);
    let ranges = key_ranges(shared, own.len() - tokens, window);
    let tiles: Vec<QueryTile> =
        QueryTile::cut(0, tokens, |query| ranges.iter().map(move |range| range.starting_at_query(query)))
            .collect();
    let last = ranges.len() - 1;
    let blocks_of = |range: usize| match shared {
        Some(shared) if range < last => shared.blocks(),
        _ => own.blocks(),
    };
    attend_blocks(heads, queries, &tiles, false, blocks_of).out
}

/// A sequence whose last token is being decoded.
#[derive(Clone, Copy)]
pub struct DecodeRow<'a> {
    /// The prefix that the sequence shares with others.
    pub shared: Option<&'a PackedKv>,
    /// The keys after the prefix, the last token's included.
    pub own: &'a PackedKv,
}

/// Some blocks of keys, the rows that see them, and one key head.
struct KvSplit<'a> {
    /// Indices of the rows.
    rows: Vec<usize>,
    kv_head: usize,
    kv: KvBlocks<'a>,
    range: KeyRange,
    blocks: Range<usize>,
}

/// Attention over the keys of one split, row by row and head by head, before the division by the sum.
struct PartialAttention {
    weighted_values: AlignedBuffer,
    max: Vec<f32>,
    sum: Vec<f32>,
}

/// Queries `[rows, heads, dim]`, one for each of `rows`, to the same shape. Keys that rows share are read
/// once for all of them; a row's bits do not depend on the other rows.
#[must_use]
pub fn decode(heads: Heads, queries: &[f32], rows: &[DecodeRow<'_>], window: Option<usize>) -> Vec<f32> {
    let Heads { queries: count, keys: kv_heads, dim } = heads;
    let (width, group) = (count * dim, heads.group());
    let splits = splits(heads, rows, window);
    let partials: Vec<PartialAttention> = splits
        .par_iter()
        .map(|split| Arch::new().dispatch(SplitAttention { heads, queries, split }))
        .collect();
    // In the order of the keys: the splits of shared keys come first.
    let mut by_head: Vec<Vec<(&PartialAttention, usize)>> = vec![Vec::new(); rows.len() * kv_heads];
    for (split, partial) in splits.iter().zip(&partials) {
        for (index, row) in split.rows.iter().enumerate() {
            by_head[row * kv_heads + split.kv_head].push((partial, index * group));
        }
    }
    let mut out = vec![0f32; rows.len() * width];
    out.par_chunks_exact_mut(group * dim)
        .zip(&by_head)
        .for_each(|(out, partials)| Arch::new().dispatch(Combine { partials, dim, out }));
    out
}

fn splits<'a>(heads: Heads, rows: &[DecodeRow<'a>], window: Option<usize>) -> Vec<KvSplit<'a>> {
    let mut splits = Vec::new();
    let mut split = |rows: Vec<usize>, kv: &'a PackedKv, range: KeyRange| {
        let blocks = range.blocks(1);
        for kv_head in 0..heads.keys {
            for first in blocks.clone().step_by(SPLIT_BLOCKS) {
                let blocks = first..(first + SPLIT_BLOCKS).min(blocks.end);
                splits.push(KvSplit { rows: rows.clone(), kv_head, kv: kv.blocks(), range, blocks });
            }
        }
    };
    let mut grouped = vec![false; rows.len()];
    for (index, row) in rows.iter().enumerate() {
        let Some(shared) = row.shared.filter(|_| !grouped[index]) else { continue };
        // With a window, a row further on sees less of the shared keys.
        let sees_the_same = |other: &DecodeRow<'_>| {
            other.shared.is_some_and(|s| std::ptr::eq(s, shared))
                && (window.is_none() || other.own.len() == row.own.len())
        };
        let group: Vec<usize> =
            (index..rows.len()).filter(|i| !grouped[*i] && sees_the_same(&rows[*i])).collect();
        for other in &group {
            grouped[*other] = true;
        }
        split(group, shared, key_ranges(Some(shared), row.own.len() - 1, window)[0]);
    }
    for (index, row) in rows.iter().enumerate() {
        split(vec![index], row.own, KeyRange::causal_from_zero(row.own.len() - 1, window));
    }
    splits
}

struct SplitAttention<'a> {
    heads: Heads,
    queries: &'a [f32],
    split: &'a KvSplit<'a>,
}

impl WithSimd for SplitAttention<'_> {
    type Output = PartialAttention;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> PartialAttention {
        let Self { heads, split, .. } = self;
        let (dim, group) = (heads.dim, heads.group());
        let size = split.rows.len() * group;
        let mut queries = AlignedBuffer::zeros(size * dim);
        for (row, to) in split.rows.iter().zip(queries.chunks_exact_mut(group * dim)) {
            let start = (row * heads.queries + split.kv_head * group) * dim;
            to.copy_from_slice(&self.queries[start..start + group * dim]);
        }
        scale(simd, &mut queries, heads.scale());
        let mut partial = PartialAttention {
            weighted_values: AlignedBuffer::zeros(size * dim),
            max: vec![f32::NEG_INFINITY; size],
            sum: vec![0.0; size],
        };
        let mut scores = AlignedBuffer::zeros(size * KEY_BLOCK);
        let PartialAttention { weighted_values, max, sum } = &mut partial;
        let mut state = OnlineSoftmax { queries: &queries, weighted_values, max, sum, scores: &mut scores };
        let read = |block| {
            let kv = &split.kv;
            (kv.transposed_keys(dim, split.kv_head, block), kv.values(dim, split.kv_head, block))
        };
        for block in split.blocks.clone() {
            let (keys, values) = read(block);
            let visible = |_| split.range.visible_columns(block, 0);
            // With few rows, reading takes longer than computing.
            let (next_keys, next_values) = read((block + 1).min(split.blocks.end - 1));
            let prefetch = (
                &mut LinePrefetch::spread_over(next_keys, prefetch_steps((size, KEY_BLOCK, dim))),
                &mut LinePrefetch::spread_over(next_values.data, prefetch_steps((size, dim, KEY_BLOCK))),
            );
            add_block(simd, dim, &mut state, keys, values, visible, prefetch);
        }
        partial
    }
}

/// Combines the partial results of one row and one key head.
struct Combine<'a> {
    /// Each with the index of the first query head in it.
    partials: &'a [(&'a PartialAttention, usize)],
    dim: usize,
    /// `[group, dim]`.
    out: &'a mut [f32],
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (head, out) in self.out.chunks_exact_mut(self.dim).enumerate() {
            let max = self
                .partials
                .iter()
                .fold(f32::NEG_INFINITY, |max, (partial, first)| max.max(partial.max[first + head]));
            let mut sum = 0f32;
            for (partial, first) in self.partials {
                let at = first + head;
                let rescale = exp(partial.max[at] - max);
                sum = partial.sum[at].mul_add(rescale, sum);
                let weighted_values = &partial.weighted_values[at * self.dim..(at + 1) * self.dim];
                for (out, value) in out.iter_mut().zip(weighted_values) {
                    *out = value.mul_add(rescale, *out);
                }
            }
            scale(simd, out, 1.0 / sum);
        }
    }
}
