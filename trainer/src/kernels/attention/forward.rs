//! The forward pass of attention.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::aligned_buffer::AlignedBuffer;
use super::super::prefetch::NoPrefetch;
use super::heads::Heads;
use super::online_softmax::{OnlineSoftmax, add_block, scale};
use super::packing::{KEY_BLOCK, KvBlocks, pack_rows, pack_transposed};
use super::query_tiles::QueryTile;
use super::spans::KeyRange;

/// The working memory of a thread.
#[derive(Default)]
struct ForwardScratch {
    queries: AlignedBuffer,
    weighted_values: AlignedBuffer,
    max: AlignedBuffer,
    sum: AlignedBuffer,
    scores: AlignedBuffer,
}

/// One query tile over all heads.
struct ForwardTile<'a> {
    heads: Heads,
    /// `[len, heads, dim]`.
    queries: &'a [f32],
    /// What the queries see, and where those keys are.
    keys: &'a [(KeyRange, KvBlocks<'a>)],
    /// `[len, heads, dim]`.
    out: &'a mut [f32],
    /// `[len, heads]`: log of the sum of e^score.
    log_sums: Option<&'a mut [f32]>,
    scratch: &'a mut ForwardScratch,
}

impl WithSimd for ForwardTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Heads { queries: heads, keys: kv_heads, dim } = self.heads;
        let width = heads * dim;
        let rows = self.queries.len() / width;
        let group = self.heads.group();
        let size = group * rows;
        let ForwardScratch { queries, weighted_values, max, sum, scores } = self.scratch;
        for kv_head in 0..kv_heads {
            let queries = queries.with_len(size * dim);
            for (index, query) in queries.chunks_exact_mut(dim).enumerate() {
                let (head, row) = (kv_head * group + index / rows, index % rows);
                query.copy_from_slice(&self.queries[row * width + head * dim..][..dim]);
            }
            scale(simd, queries, self.heads.scale());
            let weighted_values = weighted_values.filled(size * dim, 0.0);
            let max = max.filled(size, f32::NEG_INFINITY);
            let sum = sum.filled(size, 0.0);
            let scores = scores.with_len(size * KEY_BLOCK);
            let mut state = OnlineSoftmax { queries, weighted_values, max, sum, scores };
            for (range, blocks) in self.keys {
                for block in range.blocks(rows) {
                    // The rows of every head of the group are the same tokens.
                    let visible = |row: usize| range.visible_columns(block, row % rows);
                    let keys = blocks.transposed_keys(dim, kv_head, block);
                    let values = blocks.values(dim, kv_head, block);
                    let no_prefetch = (&mut NoPrefetch, &mut NoPrefetch);
                    add_block(simd, dim, &mut state, keys, values, visible, no_prefetch);
                }
            }
            for (index, of_head) in weighted_values.chunks_exact_mut(rows * dim).enumerate() {
                let head = kv_head * group + index;
                for (row, mean) in of_head.chunks_exact_mut(dim).enumerate() {
                    scale(simd, mean, 1.0 / sum[index * rows + row]);
                    self.out[row * width + head * dim..][..dim].copy_from_slice(mean);
                }
            }
            if let Some(log_sums) = &mut self.log_sums {
                for index in 0..group {
                    for row in 0..rows {
                        let at = index * rows + row;
                        log_sums[row * heads + kv_head * group + index] = max[at] + sum[at].ln();
                    }
                }
            }
        }
    }
}

/// The result of the forward pass.
pub(super) struct Attended {
    /// `[queries, heads, dim]`.
    pub(super) out: Vec<f32>,
    /// `[queries, heads]`: log of the sum of e^score of each row, for the backward pass.
    pub(super) log_sums: Option<Vec<f32>>,
}

/// Queries `[tokens, heads, dim]` over keys and values `[tokens, kv_heads, dim]`; `tiles` follow each other
/// and cover all queries.
pub(super) fn attend(
    heads: Heads,
    (queries, keys, values): (&[f32], &[f32], &[f32]),
    tiles: &[QueryTile],
    with_log_sums: bool,
) -> Attended {
    let packed = KvBlocks {
        keys: &pack_transposed(keys, heads.keys, heads.dim),
        values: &pack_rows(values, heads.keys, heads.dim),
        blocks: (keys.len() / (heads.keys * heads.dim)).div_ceil(KEY_BLOCK),
    };
    attend_blocks(heads, queries, tiles, with_log_sums, |_| packed)
}

/// [`attend`] over packed keys and values: `blocks_of(i)` holds those of each tile's i-th key range.
pub(super) fn attend_blocks<'k>(
    heads: Heads,
    queries: &[f32],
    tiles: &[QueryTile],
    with_log_sums: bool,
    blocks_of: impl Fn(usize) -> KvBlocks<'k> + Sync,
) -> Attended {
    let width = heads.queries * heads.dim;
    let count = queries.len() / width;
    let mut out = vec![0f32; count * width];
    let mut log_sums = with_log_sums.then(|| vec![0f32; count * heads.queries]);
    let mut rest_out = out.as_mut_slice();
    let mut rest_sums = log_sums.as_deref_mut();
    let mut tasks = Vec::with_capacity(tiles.len());
    for tile in tiles {
        let (own, rest) = rest_out.split_at_mut(tile.len * width);
        rest_out = rest;
        let sums = rest_sums.take().map(|sums| {
            let (own, rest) = sums.split_at_mut(tile.len * heads.queries);
            rest_sums = Some(rest);
            own
        });
        tasks.push((tile, own, sums));
    }
    // The last tiles see the most keys. The longest tasks go first, so that no thread is left working alone
    // at the end.
    tasks.reverse();
    tasks.into_par_iter().for_each_init(ForwardScratch::default, |scratch, (tile, out, log_sums)| {
        let keys: Vec<_> = tile.keys.iter().enumerate().map(|(i, range)| (*range, blocks_of(i))).collect();
        Arch::new().dispatch(ForwardTile {
            heads,
            queries: &queries[tile.start * width..(tile.start + tile.len) * width],
            keys: &keys,
            out,
            log_sums,
            scratch,
        });
    });
    Attended { out, log_sums }
}
