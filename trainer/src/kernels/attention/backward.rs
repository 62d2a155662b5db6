//! The backward pass of attention (FlashAttention, arXiv 2205.14135, algorithm 4): it recomputes the scores
//! block by block.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::aligned_buffer::AlignedBuffer;
use super::super::epilogue::Epilogue;
use super::super::micro_kernel::{Lhs, RowMajor, RowMajorMut, small_matmul};
use super::super::prefetch::NoPrefetch;
use super::super::vector_math::exp;
use super::heads::Heads;
use super::online_softmax::scale;
use super::packing::{KEY_BLOCK, pack_rows, pack_transposed};
use super::query_tiles::QueryTile;
use super::spans::Span;

/// Partial sums of the gradients of keys and values. A constant and not the number of threads: the order of a
/// sum decides its bits.
const PARTITIONS: usize = 8;

/// The gradients of queries `[tokens, heads, dim]`, and of keys and values `[tokens, kv_heads, dim]`.
pub(super) struct AttentionGradients {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// The inputs of the pass.
struct BackwardPass<'a> {
    heads: Heads,
    queries: &'a [f32],
    /// See [`pack_rows`].
    key_rows: &'a [f32],
    /// See [`pack_transposed`].
    transposed_keys: &'a [f32],
    transposed_values: &'a [f32],
    blocks: usize,
    out: &'a [f32],
    log_sums: &'a [f32],
    d_out: &'a [f32],
}

/// The tiles of one partial sum.
struct Partition<'p, 'o> {
    pass: &'p BackwardPass<'p>,
    /// Each with its rows of the gradient of the queries.
    tiles: Vec<(&'p QueryTile, &'o mut [f32])>,
    /// `[keys, kv_heads, dim]`.
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
}

/// The working memory of a partition: the rows of one tile and one key head, head by head.
#[derive(Default)]
struct BackwardScratch {
    queries: AlignedBuffer,
    d_out: AlignedBuffer,
    d_queries: AlignedBuffer,
    log_sums: Vec<f32>,
    /// The inner product of `d_out` and `out` of each row.
    inner: Vec<f32>,
    /// `[rows, KEY_BLOCK]`: the scores of a block, then their softmax.
    weights: AlignedBuffer,
    /// `[rows, KEY_BLOCK]`.
    d_scores: AlignedBuffer,
}

/// Needs the result `out` `[tokens, heads, dim]`, its `log_sums` `[tokens, heads]` and its gradient `d_out`.
pub(super) fn backward(
    heads: Heads,
    (queries, keys, values): (&[f32], &[f32], &[f32]),
    spans: &[Span],
    window: Option<usize>,
    (out, log_sums, d_out): (&[f32], &[f32], &[f32]),
) -> AttentionGradients {
    let width = heads.queries * heads.dim;
    let key_width = heads.keys * heads.dim;
    let pass = BackwardPass {
        heads,
        queries,
        key_rows: &pack_rows(keys, heads.keys, heads.dim),
        transposed_keys: &pack_transposed(keys, heads.keys, heads.dim),
        transposed_values: &pack_transposed(values, heads.keys, heads.dim),
        blocks: (keys.len() / key_width).div_ceil(KEY_BLOCK),
        out,
        log_sums,
        d_out,
    };
    let tiles = QueryTile::of_spans(spans, window);
    let mut d_queries = vec![0f32; queries.len()];
    let mut partitions: Vec<Partition<'_, '_>> = (0..PARTITIONS.min(tiles.len()).max(1))
        .map(|_| Partition { pass: &pass, tiles: Vec::new(), d_keys: Vec::new(), d_values: Vec::new() })
        .collect();
    let count = partitions.len();
    let mut rest = d_queries.as_mut_slice();
    for (index, tile) in tiles.iter().enumerate() {
        let (own, others) = rest.split_at_mut(tile.len * width);
        rest = others;
        partitions[index % count].tiles.push((tile, own));
    }
    let sums: Vec<(Vec<f32>, Vec<f32>)> = partitions
        .into_par_iter()
        .map(|mut partition| {
            partition.d_keys = vec![0f32; keys.len()];
            partition.d_values = vec![0f32; keys.len()];
            Arch::new().dispatch(partition)
        })
        .collect();
    let (d_keys, d_values): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    AttentionGradients { queries: d_queries, keys: sum_in_order(d_keys), values: sum_in_order(d_values) }
}

fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total.par_chunks_mut(4096).zip(part.par_chunks(4096)).for_each(|(total, part)| {
            for (a, b) in total.iter_mut().zip(part) {
                *a += b;
            }
        });
    }
    total
}

impl WithSimd for Partition<'_, '_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Self::Output {
        let mut scratch = BackwardScratch::default();
        let kv_heads = self.pass.heads.keys;
        for (tile, d_queries) in &mut self.tiles {
            for kv_head in 0..kv_heads {
                let sums = (&mut self.d_keys[..], &mut self.d_values[..]);
                self.pass.tile(simd, tile, kv_head, d_queries, sums, &mut scratch);
            }
        }
        (self.d_keys, self.d_values)
    }
}

impl BackwardPass<'_> {
    /// The queries of a tile, of the heads that read `kv_head`.
    #[inline(always)]
    fn tile<S: Simd>(
        &self,
        simd: S,
        tile: &QueryTile,
        kv_head: usize,
        d_queries: &mut [f32],
        (d_keys, d_values): (&mut [f32], &mut [f32]),
        scratch: &mut BackwardScratch,
    ) {
        let Heads { queries: heads, dim, .. } = self.heads;
        let (rows, width, group) = (tile.len, heads * dim, self.heads.group());
        scratch.gather(simd, self, tile, kv_head);
        for range in &tile.keys {
            for block in range.blocks(rows) {
                self.recompute_scores(simd, kv_head, block, scratch);
                let mut end = 0;
                for row in 0..group * rows {
                    let visible = range.visible_columns(block, row % rows);
                    end = end.max(visible.end);
                    let at = row * KEY_BLOCK..(row + 1) * KEY_BLOCK;
                    let (weights, d_scores) = (&mut scratch.weights[at.clone()], &mut scratch.d_scores[at]);
                    softmax_backward(weights, d_scores, scratch.log_sums[row], scratch.inner[row]);
                    for hidden in [0..visible.start.min(visible.end), visible.end..KEY_BLOCK] {
                        weights[hidden.clone()].fill(0.0);
                        d_scores[hidden].fill(0.0);
                    }
                }
                self.accumulate(simd, kv_head, block, end, (&mut *d_keys, &mut *d_values), scratch);
            }
        }
        scale(simd, &mut scratch.d_queries, self.heads.scale());
        for (index, of_head) in scratch.d_queries.chunks_exact(rows * dim).enumerate() {
            let head = kv_head * group + index;
            for (row, gradient) in of_head.chunks_exact(dim).enumerate() {
                d_queries[row * width + head * dim..][..dim].copy_from_slice(gradient);
            }
        }
    }

    /// The part of packed keys or values that is `block` of `kv_head`.
    #[inline(always)]
    fn block<'k>(&self, packed: &'k [f32], kv_head: usize, block: usize, stride: usize) -> RowMajor<'k> {
        let size = self.heads.dim * KEY_BLOCK;
        RowMajor { data: &packed[(kv_head * self.blocks + block) * size..][..size], stride }
    }

    /// The scores of a block, and the gradient of their softmax.
    #[inline(always)]
    fn recompute_scores<S: Simd>(
        &self,
        simd: S,
        kv_head: usize,
        block: usize,
        scratch: &mut BackwardScratch,
    ) {
        let dim = self.heads.dim;
        let size = scratch.log_sums.len();
        let dims = (size, KEY_BLOCK, dim);
        let queries = Lhs { data: &scratch.queries, row_stride: dim, column_stride: 1 };
        let keys = self.block(self.transposed_keys, kv_head, block, KEY_BLOCK);
        let to = RowMajorMut { data: scratch.weights.with_len(size * KEY_BLOCK), stride: KEY_BLOCK };
        small_matmul(simd, dims, queries, keys, to, Epilogue::Store, &mut NoPrefetch);
        let d_out = Lhs { data: &scratch.d_out, row_stride: dim, column_stride: 1 };
        let values = self.block(self.transposed_values, kv_head, block, KEY_BLOCK);
        let to = RowMajorMut { data: scratch.d_scores.with_len(size * KEY_BLOCK), stride: KEY_BLOCK };
        small_matmul(simd, dims, d_out, values, to, Epilogue::Store, &mut NoPrefetch);
    }

    /// Adds what a block contributes to the gradients; none of its keys from `end` on is visible.
    #[inline(always)]
    fn accumulate<S: Simd>(
        &self,
        simd: S,
        kv_head: usize,
        block: usize,
        end: usize,
        (d_keys, d_values): (&mut [f32], &mut [f32]),
        scratch: &mut BackwardScratch,
    ) {
        let Heads { keys: kv_heads, dim, .. } = self.heads;
        let size = scratch.log_sums.len();
        let key_width = kv_heads * dim;
        let at = block * KEY_BLOCK * key_width + kv_head * dim;
        let by_key = |data| Lhs { data, row_stride: 1, column_stride: KEY_BLOCK };
        let (dims, add) = ((end, dim, size), Epilogue::Accumulate);
        let to = RowMajorMut { data: &mut d_values[at..], stride: key_width };
        let d_out = RowMajor { data: &scratch.d_out, stride: dim };
        small_matmul(simd, dims, by_key(&scratch.weights), d_out, to, add, &mut NoPrefetch);
        let to = RowMajorMut { data: &mut d_keys[at..], stride: key_width };
        let queries = RowMajor { data: &scratch.queries, stride: dim };
        small_matmul(simd, dims, by_key(&scratch.d_scores), queries, to, add, &mut NoPrefetch);
        let d_scores = Lhs { data: &scratch.d_scores, row_stride: KEY_BLOCK, column_stride: 1 };
        let keys = self.block(self.key_rows, kv_head, block, dim);
        let to = RowMajorMut { data: &mut scratch.d_queries, stride: dim };
        small_matmul(simd, (size, dim, end), d_scores, keys, to, add, &mut NoPrefetch);
    }
}

impl BackwardScratch {
    /// Copies the rows of a tile, scales the queries and sets their gradient to zero.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, pass: &BackwardPass<'_>, tile: &QueryTile, kv_head: usize) {
        let Heads { queries: heads, dim, .. } = pass.heads;
        let (rows, group) = (tile.len, pass.heads.group());
        let size = group * rows;
        self.log_sums.clear();
        self.inner.clear();
        let queries = self.queries.with_len(size * dim);
        let d_out = self.d_out.with_len(size * dim);
        for (index, (query, gradient)) in
            queries.chunks_exact_mut(dim).zip(d_out.chunks_exact_mut(dim)).enumerate()
        {
            let (head, row) = (kv_head * group + index / rows, tile.start + index % rows);
            let at = (row * heads + head) * dim;
            query.copy_from_slice(&pass.queries[at..at + dim]);
            gradient.copy_from_slice(&pass.d_out[at..at + dim]);
            self.log_sums.push(pass.log_sums[row * heads + head]);
            self.inner.push(gradient.iter().zip(&pass.out[at..at + dim]).map(|(a, b)| a * b).sum());
        }
        scale(simd, queries, pass.heads.scale());
        self.d_queries.filled(size * dim, 0.0);
    }
}

/// Replaces scores by their softmax `p = e^(score - log_sum)`, and the gradients of the softmax by those of
/// the scores, `p (gradient - inner)`.
#[inline(always)]
fn softmax_backward(scores: &mut [f32], gradients: &mut [f32], log_sum: f32, inner: f32) {
    for (score, gradient) in scores.iter_mut().zip(gradients) {
        *score = exp(*score - log_sum);
        *gradient = *score * (*gradient - inner);
    }
}
