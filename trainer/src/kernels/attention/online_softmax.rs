//! Softmax over one block of keys after another (FlashAttention, arXiv 2205.14135, algorithm 1).

use pulp::Simd;

use super::super::epilogue::Epilogue;
use super::super::micro_kernel::{Lhs, RowMajor, RowMajorMut, small_matmul};
use super::super::prefetch::Prefetch;
use super::super::vector_math::{exp, exp_and_sum, max};
use super::packing::KEY_BLOCK;
use super::spans::VisibleColumns;

/// Queries of one head and their softmax over the keys so far.
pub(super) struct OnlineSoftmax<'a> {
    /// `[rows, dim]`, scaled.
    pub(super) queries: &'a [f32],
    /// `[rows, dim]`: the sum of e^(score - max) times value.
    pub(super) weighted_values: &'a mut [f32],
    /// The largest score of each row.
    pub(super) max: &'a mut [f32],
    /// The sum of e^(score - max) of each row.
    pub(super) sum: &'a mut [f32],
    /// `[rows, KEY_BLOCK]`: scratch space for the scores of a block.
    pub(super) scores: &'a mut [f32],
}

/// Adds a block: its transposed keys `[dim, KEY_BLOCK]` and its values, of which row r sees the columns
/// `visible(r)`. A row's bits depend on nothing but its query and the keys that it sees.
#[inline(always)]
pub(super) fn add_block<S: Simd>(
    simd: S,
    dim: usize,
    state: &mut OnlineSoftmax<'_>,
    transposed_keys: &[f32],
    values: RowMajor<'_>,
    visible: impl Fn(usize) -> VisibleColumns,
    (prefetch_keys, prefetch_values): (&mut impl Prefetch, &mut impl Prefetch),
) {
    let (rows, scores) = (state.max.len(), &mut *state.scores);
    let queries = Lhs { data: state.queries, row_stride: dim, column_stride: 1 };
    let keys = RowMajor { data: transposed_keys, stride: KEY_BLOCK };
    let to = RowMajorMut { data: scores, stride: KEY_BLOCK };
    small_matmul(simd, (rows, KEY_BLOCK, dim), queries, keys, to, Epilogue::Store, prefetch_keys);
    let mut end = 0;
    for row in 0..rows {
        let visible = visible(row);
        end = end.max(visible.end);
        let scores = &mut scores[row * KEY_BLOCK..(row + 1) * KEY_BLOCK];
        if visible.start >= visible.end {
            scores.fill(0.0);
            continue;
        }
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let previous = state.max[row];
        let max = previous.max(max(scores));
        // Most blocks hold no larger score than the blocks before, and e^0 is exactly 1.
        let rescale = if max == previous { 1.0 } else { exp(previous - max) };
        state.sum[row] = state.sum[row].mul_add(rescale, exp_and_sum(scores, max));
        state.max[row] = max;
        if rescale != 1.0 {
            scale(simd, &mut state.weighted_values[row * dim..(row + 1) * dim], rescale);
        }
    }
    let weights = Lhs { data: scores, row_stride: KEY_BLOCK, column_stride: 1 };
    let to = RowMajorMut { data: state.weighted_values, stride: dim };
    small_matmul(simd, (rows, dim, end), weights, values, to, Epilogue::Accumulate, prefetch_values);
}

/// Multiplies all values by `factor`.
#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, values: &mut [f32], factor: f32) {
    let (vectors, rest) = S::as_mut_simd_f32s(values);
    let splat = simd.splat_f32s(factor);
    for v in vectors {
        *v = simd.mul_f32s(*v, splat);
    }
    for v in rest {
        *v *= factor;
    }
}
