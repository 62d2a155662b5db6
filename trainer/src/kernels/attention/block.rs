//! One block of keys after another, the softmax carried along (FlashAttention, arXiv 2205.14135, algorithm 1).

use pulp::Simd;

use super::super::ahead::Ahead;
use super::super::lanes::{exp, exp_all, max};
use super::super::simd::{Into, Lhs, Rows, RowsMut, product};

/// Keys of a block. A panel holds a block of keys column by column, `[dim, BLOCK]`, so that scores need no sums
/// across a vector.
pub(crate) const BLOCK: usize = 64;

/// Which columns of a block a row sees: `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Queries of one head and what they have gathered so far.
pub(super) struct Gathering<'a> {
    /// `[rows, dim]`, scaled.
    pub(super) queries: &'a [f32],
    /// `[rows, dim]`: the sum of e^(score - max) times value.
    pub(super) mixed: &'a mut [f32],
    /// The largest score of each row.
    pub(super) max: &'a mut [f32],
    /// The sum of e^(score - max) of each row.
    pub(super) sum: &'a mut [f32],
    /// `[rows, BLOCK]`: room for the scores of a block.
    pub(super) scores: &'a mut [f32],
}

/// Takes in a block: its panel `[dim, BLOCK]` and its values, of which row r sees the columns that `seen` says. A row's
/// bits depend on nothing but its own query and what it sees. What comes next can be asked for meanwhile.
#[inline(always)]
pub(super) fn take_in<S: Simd>(
    simd: S,
    dim: usize,
    gathering: &mut Gathering<'_>,
    panel: &[f32],
    values: Rows<'_>,
    seen: impl Fn(usize) -> Seen,
    (panel_ahead, values_ahead): (&mut impl Ahead, &mut impl Ahead),
) {
    let (rows, scores) = (gathering.max.len(), &mut *gathering.scores);
    let queries = Lhs { data: gathering.queries, row_stride: dim, column_stride: 1 };
    let panel = Rows { data: panel, stride: BLOCK };
    let to = RowsMut { data: scores, stride: BLOCK };
    product(simd, (rows, BLOCK, dim), queries, panel, to, Into::Place, panel_ahead);
    let mut last = 0;
    for row in 0..rows {
        let seen = seen(row);
        last = last.max(seen.to);
        let scores = &mut scores[row * BLOCK..(row + 1) * BLOCK];
        if seen.from >= seen.to {
            scores.fill(0.0);
            continue;
        }
        scores[..seen.from].fill(f32::NEG_INFINITY);
        scores[seen.to..].fill(f32::NEG_INFINITY);
        let before = gathering.max[row];
        let max = before.max(max(scores));
        // Most blocks hold no larger score than those before, and e^0 is 1 to the bit.
        let shrink = if max == before { 1.0 } else { exp(before - max) };
        gathering.sum[row] = gathering.sum[row].mul_add(shrink, exp_all(scores, max));
        gathering.max[row] = max;
        if shrink != 1.0 {
            scale(simd, &mut gathering.mixed[row * dim..(row + 1) * dim], shrink);
        }
    }
    let shares = Lhs { data: scores, row_stride: BLOCK, column_stride: 1 };
    let mixed = RowsMut { data: gathering.mixed, stride: dim };
    product(simd, (rows, dim, last), shares, values, mixed, Into::Sum, values_ahead);
}

#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, values: &mut [f32], by: f32) {
    let (vectors, rest) = S::as_mut_simd_f32s(values);
    let factor = simd.splat_f32s(by);
    for v in vectors {
        *v = simd.mul_f32s(*v, factor);
    }
    for v in rest {
        *v *= by;
    }
}
