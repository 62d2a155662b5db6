//! Keys and values that stay, as the kernels read them, and attention of what follows over them.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::ahead::Lines;
use super::super::buffer::Buffer;
use super::super::lanes::exp;
use super::super::simd::steps;
use super::block::{BLOCK, Gathering, scale, take_in};
use super::forward::{Keys, QUERIES, Task, attend_to};
use super::spans::Part;
use super::{Heads, put_column, put_row};

/// Blocks of shared keys that one task takes: what it gathers is put together in the order of the keys, so the number
/// decides bits and is one for all.
const CHUNK: usize = 16;

/// The keys and values of one layer of one sequence.
#[derive(Debug)]
pub(crate) struct Panels {
    kv_heads: usize,
    dim: usize,
    blocks: usize,
    /// `[kv_heads, blocks, dim, BLOCK]`.
    keys: Buffer,
    /// `[kv_heads, blocks * BLOCK, dim]`.
    values: Buffer,
    len: usize,
}

impl Panels {
    /// With room for `capacity` tokens.
    pub(crate) fn new(kv_heads: usize, dim: usize, capacity: usize) -> Self {
        let blocks = capacity.div_ceil(BLOCK);
        let numbers = kv_heads * blocks * BLOCK * dim;
        let [keys, values] = [Buffer::zeros(numbers), Buffer::zeros(numbers)];
        Self { kv_heads, dim, blocks, keys, values, len: 0 }
    }

    /// Tokens held.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Appends keys and values `[tokens, kv_heads, dim]`.
    pub(crate) fn push(&mut self, keys: &[f32], values: &[f32]) -> candle_core::Result<()> {
        let width = self.kv_heads * self.dim;
        let tokens = keys.len() / width;
        if self.len + tokens > self.blocks * BLOCK {
            candle_core::bail!("a cache of {} tokens was given {}", self.blocks * BLOCK, self.len + tokens);
        }
        let (len, dim, size) = (self.len, self.dim, self.blocks * BLOCK * self.dim);
        let push = |(head, (panels, own_values)): (usize, (&mut [f32], &mut [f32]))| {
            for token in 0..tokens {
                let from = token * width + head * dim;
                let (block, place) = ((len + token) / BLOCK, (len + token) % BLOCK);
                put_column(&mut panels[block * dim * BLOCK..], place, &keys[from..from + dim]);
                put_row(&mut own_values[block * BLOCK * dim..], place, &values[from..from + dim]);
            }
        };
        if tokens > BLOCK {
            self.keys.par_chunks_mut(size).zip(self.values.par_chunks_mut(size)).enumerate().for_each(push);
        } else {
            self.keys.chunks_mut(size).zip(self.values.chunks_mut(size)).enumerate().for_each(push);
        }
        self.len += tokens;
        Ok(())
    }

    fn read(&self) -> Keys<'_> {
        Keys { panels: &self.keys, blocks: self.blocks, values: &self.values }
    }
}

/// What the tokens of a sequence see that stand in `own` from `first` on: all that is shared, and what is their own up to
/// themselves.
fn parts(shared: Option<&Panels>, first: usize, window: Option<usize>) -> Vec<Part> {
    let before = shared.map_or(0, Panels::len);
    let context = (before > 0).then(|| Part::whole(0..before, before + first, window));
    context.into_iter().chain([Part::continued(first, window)]).collect()
}

/// Queries `[tokens, heads, dim]` of the last tokens of `own`, which follows `shared`, to `[tokens, heads, dim]`.
pub(crate) fn extend(
    heads: Heads,
    queries: &[f32],
    shared: Option<&Panels>,
    own: &Panels,
    window: Option<usize>,
) -> Vec<f32> {
    let tokens = queries.len() / (heads.queries * heads.dim);
    let parts = parts(shared, own.len() - tokens, window);
    let tasks: Vec<Task> = (0..tokens)
        .step_by(QUERIES)
        .map(|row| Task {
            start: row,
            len: QUERIES.min(tokens - row),
            parts: parts.iter().map(|part| part.later(row)).collect(),
        })
        .collect();
    let last = parts.len() - 1;
    let keys_of = |part: usize| match shared {
        Some(shared) if part < last => shared.read(),
        _ => own.read(),
    };
    attend_to(heads, queries, &tasks, false, keys_of).out
}

/// A sequence whose last token is decoded.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// What it shares with others, before its own.
    pub(crate) shared: Option<&'a Panels>,
    /// Its own keys, the new token's the last.
    pub(crate) own: &'a Panels,
}

/// A part of the keys of some rows, for one head of keys.
struct Piece<'a> {
    /// Places among the rows.
    rows: Vec<usize>,
    kv_head: usize,
    keys: Keys<'a>,
    part: Part,
    blocks: std::ops::Range<usize>,
}

/// What the queries of a piece gathered, row by row and head by head.
struct Gathered {
    mixed: Buffer,
    max: Vec<f32>,
    sum: Vec<f32>,
}

/// Queries `[rows, heads, dim]`, one of each row, to `[rows, heads, dim]`. Keys that rows share are read once for all of
/// them; a row's bits do not depend on who shares.
pub(crate) fn decode(heads: Heads, queries: &[f32], rows: &[Row<'_>], window: Option<usize>) -> Vec<f32> {
    let Heads { queries: count, keys: kv_heads, dim } = heads;
    let (width, group) = (count * dim, count / kv_heads);
    let pieces = pieces(heads, rows, window);
    let gathered: Vec<Gathered> =
        pieces.par_iter().map(|piece| Arch::new().dispatch(Gather { heads, queries, piece })).collect();
    // In the order of the keys: shared ones come first among the pieces.
    let mut found: Vec<Vec<(&Gathered, usize)>> = vec![Vec::new(); rows.len() * kv_heads];
    for (piece, gathered) in pieces.iter().zip(&gathered) {
        for (place, row) in piece.rows.iter().enumerate() {
            found[row * kv_heads + piece.kv_head].push((gathered, place * group));
        }
    }
    let mut out = vec![0f32; rows.len() * width];
    out.par_chunks_exact_mut(group * dim)
        .zip(&found)
        .for_each(|(out, found)| Arch::new().dispatch(Join { found, dim, out }));
    out
}

fn pieces<'a>(heads: Heads, rows: &[Row<'a>], window: Option<usize>) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut add = |rows: Vec<usize>, panels: &'a Panels, part: Part| {
        let blocks = part.blocks(1);
        for kv_head in 0..heads.keys {
            for first in blocks.clone().step_by(CHUNK) {
                let blocks = first..(first + CHUNK).min(blocks.end);
                pieces.push(Piece { rows: rows.clone(), kv_head, keys: panels.read(), part, blocks });
            }
        }
    };
    let mut taken = vec![false; rows.len()];
    for (index, row) in rows.iter().enumerate() {
        let Some(shared) = row.shared.filter(|_| !taken[index]) else { continue };
        // With a window, who stands further on sees less of what is shared.
        let like = |other: &Row<'_>| {
            other.shared.is_some_and(|s| std::ptr::eq(s, shared))
                && (window.is_none() || other.own.len() == row.own.len())
        };
        let group: Vec<usize> = (index..rows.len()).filter(|i| !taken[*i] && like(&rows[*i])).collect();
        for other in &group {
            taken[*other] = true;
        }
        add(group, shared, parts(Some(shared), row.own.len() - 1, window)[0]);
    }
    for (index, row) in rows.iter().enumerate() {
        add(vec![index], row.own, Part::continued(row.own.len() - 1, window));
    }
    pieces
}

struct Gather<'a> {
    heads: Heads,
    queries: &'a [f32],
    piece: &'a Piece<'a>,
}

impl WithSimd for Gather<'_> {
    type Output = Gathered;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Gathered {
        let Self { heads: Heads { queries: heads, keys: kv_heads, dim }, piece, .. } = self;
        let group = heads / kv_heads;
        let size = piece.rows.len() * group;
        let mut queries = Buffer::zeros(size * dim);
        for (row, queries) in piece.rows.iter().zip(queries.chunks_exact_mut(group * dim)) {
            let start = (row * heads + piece.kv_head * group) * dim;
            queries.copy_from_slice(&self.queries[start..start + group * dim]);
        }
        scale(simd, &mut queries, self.heads.scale());
        let mut gathered = Gathered {
            mixed: Buffer::zeros(size * dim),
            max: vec![f32::NEG_INFINITY; size],
            sum: vec![0.0; size],
        };
        let mut scores = Buffer::zeros(size * BLOCK);
        let Gathered { mixed, max, sum } = &mut gathered;
        let mut gathering = Gathering { queries: &queries, mixed, max, sum, scores: &mut scores };
        let read = |block| {
            let keys = &piece.keys;
            (keys.panel(dim, piece.kv_head, block), keys.values(dim, piece.kv_head, block))
        };
        for block in piece.blocks.clone() {
            let (panel, values) = read(block);
            let seen = |_| piece.part.in_block(block, 0);
            // Few queries: reading takes longer than computing.
            let (next_panel, next_values) = read((block + 1).min(piece.blocks.end - 1));
            let ahead = (
                &mut Lines::all(next_panel, steps((size, BLOCK, dim))),
                &mut Lines::all(next_values.data, steps((size, dim, BLOCK))),
            );
            take_in(simd, dim, &mut gathering, panel, values, seen, ahead);
        }
        gathered
    }
}

/// Puts together what the queries of one row and one head of keys gathered in several pieces.
struct Join<'a> {
    /// Each with the place of the first query.
    found: &'a [(&'a Gathered, usize)],
    dim: usize,
    /// `[group, dim]`.
    out: &'a mut [f32],
}

impl WithSimd for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (query, out) in self.out.chunks_exact_mut(self.dim).enumerate() {
            let max = self
                .found
                .iter()
                .fold(f32::NEG_INFINITY, |max, (gathered, place)| max.max(gathered.max[place + query]));
            let mut sum = 0f32;
            for (gathered, place) in self.found {
                let at = place + query;
                let share = exp(gathered.max[at] - max);
                sum = gathered.sum[at].mul_add(share, sum);
                for (out, mixed) in out.iter_mut().zip(&gathered.mixed[at * self.dim..(at + 1) * self.dim]) {
                    *out = mixed.mul_add(share, *out);
                }
            }
            scale(simd, out, 1.0 / sum);
        }
    }
}
