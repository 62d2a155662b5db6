//! The product of a few rows with a frozen matrix, which decoding is made of.
//!
//! Its time is that of reading the matrix once. So a block of outputs meets all rows while it is in the cache, and the
//! block after it is asked for meanwhile.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::ahead::{Ahead, Lines};

/// Outputs that meet the rows together: each element of a row that is loaded is used so often.
const TILE: usize = 4;

/// Rows that meet a tile together, with 32 registers and with 16: tile times rows sums stay in registers.
const ROWS: usize = 6;
const ROWS_OF_16_REGISTERS: usize = 3;

/// Weights of a block of outputs: half of a core's first cache.
const BLOCK: usize = 6 * 1024;

/// Weights that are worth a thread's waking.
const PIECE: usize = 64 * 1024;

/// Adds `scale` `xs` `weight`ᵀ to `to`: `xs` `[rows, width]`, `weight` `[out, width]`, `to` `[rows, out]`.
///
/// A row's bits depend neither on the other rows nor on the number of threads: each of its outputs is summed in lanes
/// along the width, whatever is computed beside it.
pub(super) fn add_rows(to: &mut [f32], scale: f32, xs: &[f32], weight: &[f32], width: usize) {
    let outputs = weight.len() / width;
    let pieces = (weight.len() / PIECE).clamp(1, 4 * rayon::current_num_threads());
    let length = outputs.div_ceil(pieces).next_multiple_of(TILE);
    let mut tasks: Vec<Task<'_>> = weight
        .chunks(length * width)
        .map(|weight| Task { to: Vec::with_capacity(xs.len() / width), scale, xs, weight, width })
        .collect();
    for row in to.chunks_mut(outputs) {
        for (task, part) in tasks.iter_mut().zip(row.chunks_mut(length)) {
            task.to.push(part);
        }
    }
    let arch = Arch::new();
    if let [_] = tasks.as_slice() {
        tasks.into_iter().for_each(|task| arch.dispatch(task));
    } else {
        tasks.into_par_iter().for_each(|task| arch.dispatch(task));
    }
}

/// Some of the outputs.
struct Task<'a> {
    /// These outputs of each row.
    to: Vec<&'a mut [f32]>,
    scale: f32,
    xs: &'a [f32],
    /// The rows of the matrix that make these outputs.
    weight: &'a [f32],
    width: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    /// The rows in groups of like size, each of which meets a block of outputs while both are in the cache. Meanwhile
    /// the block after it is asked for, as many lines a step as let it be there in time.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (outputs, rows) = (self.weight.len() / self.width, self.to.len());
        let groups = rows.div_ceil(if S::REGISTER_COUNT < 32 { ROWS_OF_16_REGISTERS } else { ROWS });
        let length = (BLOCK / self.width / TILE).max(1) * TILE;
        for first in (0..outputs).step_by(length) {
            let block = first..(first + length).min(outputs);
            let mut ahead = Lines::from(self.weight, block.end * self.width, TILE.div_ceil(groups));
            let mut row = 0;
            for groups_left in (1..=groups).rev() {
                let group = (rows - row).div_ceil(groups_left);
                match group {
                    1 => self.group::<S, 1>(simd, &block, row, &mut ahead),
                    2 => self.group::<S, 2>(simd, &block, row, &mut ahead),
                    3 => self.group::<S, 3>(simd, &block, row, &mut ahead),
                    4 => self.group::<S, 4>(simd, &block, row, &mut ahead),
                    5 => self.group::<S, 5>(simd, &block, row, &mut ahead),
                    _ => self.group::<S, ROWS>(simd, &block, row, &mut ahead),
                }
                row += group;
            }
        }
    }
}

impl Task<'_> {
    /// The outputs of a block for rows `row..row + R`.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        block: &Range<usize>,
        row: usize,
        ahead: &mut Lines<'_>,
    ) {
        let whole = block.len() - block.len() % TILE;
        for first in (block.start..block.start + whole).step_by(TILE) {
            self.tile::<S, TILE, R>(simd, first, row, ahead);
        }
        for first in block.start + whole..block.end {
            self.tile::<S, 1, R>(simd, first, row, ahead);
        }
    }

    /// Outputs `first..first + O` of rows `row..row + R`.
    #[expect(
        clippy::needless_range_loop,
        reason = "loops over constants are unrolled, and their arrays stay in registers"
    )]
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const R: usize>(
        &mut self,
        simd: S,
        first: usize,
        row: usize,
        ahead: &mut Lines<'_>,
    ) {
        let steps = self.width / S::F32_LANES;
        let mut weights: [(&[S::f32s], &[f32]); O] = [(&[], &[]); O];
        for (o, weights) in weights.iter_mut().enumerate() {
            let (lanes, rest) = S::as_simd_f32s(&self.weight[(first + o) * self.width..][..self.width]);
            *weights = (&lanes[..steps], rest);
        }
        let mut xs: [(&[S::f32s], &[f32]); R] = [(&[], &[]); R];
        for (r, xs) in xs.iter_mut().enumerate() {
            let (lanes, rest) = S::as_simd_f32s(&self.xs[(row + r) * self.width..][..self.width]);
            *xs = (&lanes[..steps], rest);
        }
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        let mut x = [simd.splat_f32s(0.0); R];
        for k in 0..steps {
            for r in 0..R {
                x[r] = xs[r].0[k];
            }
            ahead.step();
            for o in 0..O {
                let weight = weights[o].0[k];
                for r in 0..R {
                    sums[o][r] = simd.mul_add_e_f32s(weight, x[r], sums[o][r]);
                }
            }
        }
        if !self.width.is_multiple_of(S::F32_LANES) {
            for o in 0..O {
                let weight = simd.partial_load_f32s(weights[o].1);
                for r in 0..R {
                    let x = simd.partial_load_f32s(xs[r].1);
                    sums[o][r] = simd.mul_add_e_f32s(weight, x, sums[o][r]);
                }
            }
        }
        for r in 0..R {
            let to = &mut self.to[row + r][first..first + O];
            for o in 0..O {
                to[o] += self.scale * simd.reduce_sum_f32s(sums[o][r]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, numbers, on_threads};
    use super::*;

    /// Widths with and without a rest after whole lanes, outputs with and without one after whole tiles.
    const SHAPES: [(usize, usize); 5] = [(7, 5), (64, 48), (330, 515), (128, 1000), (1, 16)];

    fn of(rows: &[f32], weight: &[f32], width: usize, start: &[f32]) -> Vec<f32> {
        let mut to = start.to_vec();
        add_rows(&mut to, 0.5, rows, weight, width);
        to
    }

    #[test]
    fn equals_a_loop() {
        for (outputs, width) in SHAPES {
            for rows in [1, 2, 5, 6, 7, 13] {
                let (xs, weight) = (numbers(rows * width, 1), numbers(outputs * width, 2));
                let start = numbers(rows * outputs, 3);
                let expected: Vec<f64> = (0..rows * outputs)
                    .map(|i| {
                        let (r, o) = (i / outputs * width, i % outputs * width);
                        let terms = (0..width).map(|k| f64::from(xs[r + k]) * f64::from(weight[o + k]));
                        f64::from(start[i]) + 0.5 * terms.sum::<f64>()
                    })
                    .collect();
                close(&of(&xs, &weight, width, &start), &expected, 1e-6);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_for_every_number_of_rows_and_threads() {
        for (outputs, width) in SHAPES {
            let (xs, weight) = (numbers(33 * width, 4), numbers(outputs * width, 5));
            let start = numbers(33 * outputs, 6);
            let alone: Vec<f32> = (0..33)
                .flat_map(|r| of(&xs[r * width..][..width], &weight, width, &start[r * outputs..][..outputs]))
                .collect();
            for threads in 1..=3 {
                for rows in 1..=33 {
                    let found = on_threads(threads, || {
                        of(&xs[..rows * width], &weight, width, &start[..rows * outputs])
                    });
                    assert!(
                        found == alone[..rows * outputs],
                        "{rows} rows of {outputs}x{width}, {threads} threads"
                    );
                }
            }
        }
    }
}
