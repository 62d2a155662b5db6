//! Attention of many queries over keys of the same pass.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::ahead::Nothing;
use super::super::buffer::Buffer;
use super::super::simd::Rows;
use super::block::{BLOCK, Gathering, Seen, scale, take_in};
use super::spans::{Part, Span};
use super::{Heads, pack_panels, pack_rows};

/// Queries of a task. Each meets a block of keys and values once it is in the cache.
pub(super) const QUERIES: usize = 64;

/// A run of at most [`QUERIES`] queries and what they see.
pub(super) struct Task {
    /// Its first query.
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) parts: Vec<Part>,
}

/// `sequences` of `tokens` each, in which every token sees every one of its sequence.
pub(super) fn everyone(sequences: usize, tokens: usize) -> Vec<Task> {
    (0..sequences)
        .flat_map(|sequence| {
            let first = sequence * tokens;
            (0..tokens).step_by(QUERIES).map(move |row| Task {
                start: first + row,
                len: QUERIES.min(tokens - row),
                parts: vec![Part::whole(first..first + tokens, 0, None)],
            })
        })
        .collect()
}

/// Cuts spans that follow each other into tasks that do.
pub(super) fn tasks(spans: &[Span], window: Option<usize>) -> Vec<Task> {
    spans
        .iter()
        .flat_map(|span| {
            (0..span.len).step_by(QUERIES).map(move |row| Task {
                start: span.start + row,
                len: QUERIES.min(span.len - row),
                parts: span.parts(row, window).collect(),
            })
        })
        .collect()
}

/// Keys and values as a task reads them.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    /// `[kv_heads, blocks, dim, BLOCK]`.
    pub(super) panels: &'a [f32],
    pub(super) blocks: usize,
    /// `[kv_heads, blocks, BLOCK, dim]`.
    pub(super) values: &'a [f32],
}

impl<'a> Keys<'a> {
    #[inline(always)]
    pub(super) fn panel(&self, dim: usize, head: usize, block: usize) -> &'a [f32] {
        let size = dim * BLOCK;
        &self.panels[(head * self.blocks + block) * size..][..size]
    }

    #[inline(always)]
    pub(super) fn values(&self, dim: usize, head: usize, block: usize) -> Rows<'a> {
        let size = BLOCK * dim;
        Rows { data: &self.values[(head * self.blocks + block) * size..][..size], stride: dim }
    }
}

/// The memory that a thread works in.
#[derive(Default)]
struct Scratch {
    queries: Buffer,
    mixed: Buffer,
    max: Buffer,
    sum: Buffer,
    scores: Buffer,
}

/// One task over all heads.
struct Attend<'a> {
    heads: Heads,
    scale: f32,
    /// `[len, heads, dim]`.
    queries: &'a [f32],
    /// Each with the keys that it is of.
    parts: &'a [(Part, Keys<'a>)],
    /// `[len, heads, dim]`.
    out: &'a mut [f32],
    /// `[len, heads]`: the logarithm of the sum of e^score.
    log_sums: Option<&'a mut [f32]>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Heads { queries: heads, keys: kv_heads, dim } = self.heads;
        let width = heads * dim;
        let rows = self.queries.len() / width;
        let group = heads / kv_heads;
        let size = group * rows;
        let Scratch { queries, mixed, max, sum, scores } = self.scratch;
        for kv_head in 0..kv_heads {
            let queries = queries.with_len(size * dim);
            for (place, query) in queries.chunks_exact_mut(dim).enumerate() {
                let (head, row) = (kv_head * group + place / rows, place % rows);
                query.copy_from_slice(&self.queries[row * width + head * dim..][..dim]);
            }
            scale(simd, queries, self.scale);
            let mixed = mixed.filled(size * dim, 0.0);
            let max = max.filled(size, f32::NEG_INFINITY);
            let sum = sum.filled(size, 0.0);
            let scores = scores.with_len(size * BLOCK);
            let mut gathering = Gathering { queries, mixed, max, sum, scores };
            for (part, keys) in self.parts {
                for block in part.blocks(rows) {
                    // Every head of the group has the same rows.
                    let seen = |row: usize| -> Seen { part.in_block(block, row % rows) };
                    let panel = keys.panel(dim, kv_head, block);
                    let (values, ahead) = (keys.values(dim, kv_head, block), (&mut Nothing, &mut Nothing));
                    take_in(simd, dim, &mut gathering, panel, values, seen, ahead);
                }
            }
            for (place, of_head) in mixed.chunks_exact_mut(rows * dim).enumerate() {
                let head = kv_head * group + place;
                for (row, mixed) in of_head.chunks_exact_mut(dim).enumerate() {
                    scale(simd, mixed, 1.0 / sum[place * rows + row]);
                    self.out[row * width + head * dim..][..dim].copy_from_slice(mixed);
                }
            }
            if let Some(log_sums) = &mut self.log_sums {
                for place in 0..group {
                    for row in 0..rows {
                        let at = place * rows + row;
                        log_sums[row * heads + kv_head * group + place] = max[at] + sum[at].ln();
                    }
                }
            }
        }
    }
}

/// What attention over a pass gives.
pub(super) struct Attended {
    /// `[queries, heads, dim]`.
    pub(super) out: Vec<f32>,
    /// `[queries, heads]`: the logarithm of each row's sum of e^score, where it was asked for.
    pub(super) log_sums: Option<Vec<f32>>,
}

/// Queries `[tokens, heads, dim]` over keys and values `[tokens, kv_heads, dim]`; `tasks` follow each other and cover all
/// queries.
pub(super) fn attend(
    heads: Heads,
    (queries, keys, values): (&[f32], &[f32], &[f32]),
    tasks: &[Task],
    with_log_sums: bool,
) -> Attended {
    let blocks = (keys.len() / (heads.keys * heads.dim)).div_ceil(BLOCK);
    let keys = Keys {
        panels: &pack_panels(keys, heads.keys, heads.dim),
        blocks,
        values: &pack_rows(values, heads.keys, heads.dim),
    };
    attend_to(heads, queries, tasks, with_log_sums, |_| keys)
}

/// As [`attend`], with the keys of each part of what a task sees given by `keys_of`.
pub(super) fn attend_to<'k>(
    heads: Heads,
    queries: &[f32],
    tasks: &[Task],
    with_log_sums: bool,
    keys_of: impl Fn(usize) -> Keys<'k> + Sync,
) -> Attended {
    let width = heads.queries * heads.dim;
    let count = queries.len() / width;
    let mut out = vec![0f32; count * width];
    let mut log_sums = with_log_sums.then(|| vec![0f32; count * heads.queries]);
    let mut rest_out = out.as_mut_slice();
    let mut rest_sums = log_sums.as_deref_mut();
    let mut places = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (own, rest) = rest_out.split_at_mut(task.len * width);
        rest_out = rest;
        let sums = rest_sums.take().map(|sums| {
            let (own, rest) = sums.split_at_mut(task.len * heads.queries);
            rest_sums = Some(rest);
            own
        });
        places.push((task, own, sums));
    }
    // The last tasks see the most keys: the longest first, so that no thread ends alone.
    places.reverse();
    places.into_par_iter().for_each_init(Scratch::default, |scratch, (task, out, log_sums)| {
        let parts: Vec<_> = task.parts.iter().enumerate().map(|(i, part)| (*part, keys_of(i))).collect();
        Arch::new().dispatch(Attend {
            heads,
            scale: heads.scale(),
            queries: &queries[task.start * width..(task.start + task.len) * width],
            parts: &parts,
            out,
            log_sums,
            scratch,
        });
    });
    Attended { out, log_sums }
}
