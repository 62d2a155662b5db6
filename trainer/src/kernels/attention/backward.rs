//! The gradient of attention (FlashAttention, arXiv 2205.14135, algorithm 4): scores are computed again, block by block.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::ahead::Nothing;
use super::super::buffer::Buffer;
use super::super::lanes::exp;
use super::super::simd::{Into, Lhs, Rows, RowsMut, product};
use super::block::{BLOCK, scale};
use super::forward::{Task, tasks};
use super::spans::Span;
use super::{Heads, pack_panels, pack_rows};

/// Parts that gradients of keys and values are summed in. A number of its own, not that of threads: the order of the
/// sum decides its bits.
const SHARES: usize = 8;

/// The gradients of queries `[tokens, heads, dim]`, and keys and values `[tokens, kv_heads, dim]`.
pub(super) struct Slopes {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// What every task reads.
struct Pass<'a> {
    heads: Heads,
    scale: f32,
    queries: &'a [f32],
    /// See [`pack_rows`].
    key_rows: &'a [f32],
    /// See [`pack_panels`].
    key_panels: &'a [f32],
    value_panels: &'a [f32],
    blocks: usize,
    out: &'a [f32],
    log_sums: &'a [f32],
    slope: &'a [f32],
}

/// The tasks of one share, and where their sums go.
struct Share<'p, 'o> {
    pass: &'p Pass<'p>,
    /// Each with its rows of the gradient of the queries.
    tasks: Vec<(&'p Task, &'o mut [f32])>,
    /// `[keys, kv_heads, dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[derive(Default)]
struct Scratch {
    queries: Buffer,
    slopes: Buffer,
    query_slopes: Buffer,
    log_sums: Vec<f32>,
    inner: Vec<f32>,
    shares: Buffer,
    score_slopes: Buffer,
}

/// From the result `[tokens, heads, dim]`, the logarithms of its rows' sums `[tokens, heads]`, and its slope.
pub(super) fn slopes(
    heads: Heads,
    (queries, keys, values): (&[f32], &[f32], &[f32]),
    spans: &[Span],
    window: Option<usize>,
    (out, log_sums, slope): (&[f32], &[f32], &[f32]),
) -> Slopes {
    let width = heads.queries * heads.dim;
    let key_width = heads.keys * heads.dim;
    let pass = Pass {
        heads,
        scale: heads.scale(),
        queries,
        key_rows: &pack_rows(keys, heads.keys, heads.dim),
        key_panels: &pack_panels(keys, heads.keys, heads.dim),
        value_panels: &pack_panels(values, heads.keys, heads.dim),
        blocks: (keys.len() / key_width).div_ceil(BLOCK),
        out,
        log_sums,
        slope,
    };
    let tasks = tasks(spans, window);
    let mut query_slopes = vec![0f32; queries.len()];
    let mut shares: Vec<Share<'_, '_>> = (0..SHARES.min(tasks.len()).max(1))
        .map(|_| Share { pass: &pass, tasks: Vec::new(), keys: Vec::new(), values: Vec::new() })
        .collect();
    let count = shares.len();
    let mut rest = query_slopes.as_mut_slice();
    for (index, task) in tasks.iter().enumerate() {
        let (own, others) = rest.split_at_mut(task.len * width);
        rest = others;
        shares[index % count].tasks.push((task, own));
    }
    let sums: Vec<(Vec<f32>, Vec<f32>)> = shares
        .into_par_iter()
        .map(|mut share| {
            share.keys = vec![0f32; keys.len()];
            share.values = vec![0f32; keys.len()];
            Arch::new().dispatch(share)
        })
        .collect();
    let (of_keys, of_values): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    Slopes { queries: query_slopes, keys: sum(of_keys), values: sum(of_values) }
}

/// The sum of all, in their order.
fn sum(parts: Vec<Vec<f32>>) -> Vec<f32> {
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

impl WithSimd for Share<'_, '_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Self::Output {
        let mut scratch = Scratch::default();
        let kv_heads = self.pass.heads.keys;
        for (task, query_slopes) in &mut self.tasks {
            for kv_head in 0..kv_heads {
                let sums = (&mut self.keys[..], &mut self.values[..]);
                self.pass.one(simd, task, kv_head, query_slopes, sums, &mut scratch);
            }
        }
        (self.keys, self.values)
    }
}

impl<'p> Pass<'p> {
    /// A task's queries of the heads that read `kv_head`.
    #[inline(always)]
    fn one<S: Simd>(
        &self,
        simd: S,
        task: &Task,
        kv_head: usize,
        query_slopes: &mut [f32],
        (key_sums, value_sums): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let Heads { queries: heads, keys: kv_heads, dim } = self.heads;
        let (width, key_width) = (heads * dim, kv_heads * dim);
        let group = heads / kv_heads;
        let rows = task.len;
        let size = group * rows;
        let s = scratch;
        s.gather(self, task, kv_head, group, simd);
        s.shares.with_len(size * BLOCK);
        s.score_slopes.with_len(size * BLOCK);
        for part in &task.parts {
            for block in part.blocks(rows) {
                let at = (kv_head * self.blocks + block) * dim * BLOCK;
                let packed = |keys: &'p [f32], stride| Rows { data: &keys[at..at + dim * BLOCK], stride };
                let row_of = |data| Lhs { data, row_stride: dim, column_stride: 1 };
                let dims = (size, BLOCK, dim);
                let to = RowsMut { data: &mut s.shares, stride: BLOCK };
                product(
                    simd,
                    dims,
                    row_of(&s.queries),
                    packed(self.key_panels, BLOCK),
                    to,
                    Into::Place,
                    &mut Nothing,
                );
                let to = RowsMut { data: &mut s.score_slopes, stride: BLOCK };
                product(
                    simd,
                    dims,
                    row_of(&s.slopes),
                    packed(self.value_panels, BLOCK),
                    to,
                    Into::Place,
                    &mut Nothing,
                );
                let mut last = 0;
                for row in 0..size {
                    let seen = part.in_block(block, row % rows);
                    last = last.max(seen.to);
                    let at = row * BLOCK..(row + 1) * BLOCK;
                    let (shares, slopes) = (&mut s.shares[at.clone()], &mut s.score_slopes[at]);
                    softmax_slopes(shares, slopes, s.log_sums[row], s.inner[row]);
                    let outside = [0..seen.from.min(seen.to), seen.to..BLOCK];
                    for outside in outside {
                        shares[outside.clone()].fill(0.0);
                        slopes[outside].fill(0.0);
                    }
                }
                let first_key = block * BLOCK;
                let by_key = |data| Lhs { data, row_stride: 1, column_stride: BLOCK };
                let at = first_key * key_width + kv_head * dim;
                let to = RowsMut { data: &mut value_sums[at..], stride: key_width };
                let right = Rows { data: &s.slopes, stride: dim };
                product(simd, (last, dim, size), by_key(&s.shares), right, to, Into::Sum, &mut Nothing);
                let to = RowsMut { data: &mut key_sums[at..], stride: key_width };
                let right = Rows { data: &s.queries, stride: dim };
                product(simd, (last, dim, size), by_key(&s.score_slopes), right, to, Into::Sum, &mut Nothing);
                let left = Lhs { data: &s.score_slopes, row_stride: BLOCK, column_stride: 1 };
                let right = packed(self.key_rows, dim);
                let to = RowsMut { data: &mut s.query_slopes, stride: dim };
                product(simd, (size, dim, last), left, right, to, Into::Sum, &mut Nothing);
            }
        }
        scale(simd, &mut s.query_slopes, self.scale);
        for (place, of_head) in s.query_slopes.chunks_exact(rows * dim).enumerate() {
            let head = kv_head * group + place;
            for (row, slope) in of_head.chunks_exact(dim).enumerate() {
                query_slopes[row * width + head * dim..][..dim].copy_from_slice(slope);
            }
        }
    }
}

impl Scratch {
    /// Queries (scaled), slopes, the logarithms of sums, and the inner products of slope and result, head by head.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, pass: &Pass<'_>, task: &Task, kv_head: usize, group: usize, simd: S) {
        let Heads { queries: heads, dim, .. } = pass.heads;
        let rows = task.len;
        let size = group * rows;
        self.log_sums.clear();
        self.inner.clear();
        let queries = self.queries.with_len(size * dim);
        let slopes = self.slopes.with_len(size * dim);
        for (place, (query, slope)) in
            queries.chunks_exact_mut(dim).zip(slopes.chunks_exact_mut(dim)).enumerate()
        {
            let (head, row) = (kv_head * group + place / rows, task.start + place % rows);
            let at = (row * heads + head) * dim;
            query.copy_from_slice(&pass.queries[at..at + dim]);
            slope.copy_from_slice(&pass.slope[at..at + dim]);
            self.log_sums.push(pass.log_sums[row * heads + head]);
            self.inner.push(slope.iter().zip(&pass.out[at..at + dim]).map(|(a, b)| a * b).sum());
        }
        scale(simd, queries, pass.scale);
        self.query_slopes.filled(size * dim, 0.0);
    }
}

/// Scores to shares `p = e^(score - log sum)`, and their slopes to those of the scores, `p (slope - inner)`.
#[inline(always)]
fn softmax_slopes(scores: &mut [f32], slopes: &mut [f32], log_sum: f32, inner: f32) {
    for (score, slope) in scores.iter_mut().zip(slopes) {
        *score = exp(*score - log_sum);
        *slope = *score * (*slope - inner);
    }
}
