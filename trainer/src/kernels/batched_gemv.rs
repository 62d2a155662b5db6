//! Batched matrix-vector products (GEMV): a few rows times a frozen matrix, which is what decoding consists
//! of.
//!
//! The time is that of reading the matrix once. So all rows are multiplied with a block of weights while it
//! is in the cache, and the next block is prefetched meanwhile.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::prefetch::{LinePrefetch, Prefetch};

/// Outputs of a register tile: how often each loaded element of a row is used.
const TILE_OUTPUTS: usize = 4;

/// Rows of a register tile where there are 32 vector registers, and where there are 16: all sums of a tile
/// stay in registers.
const TILE_ROWS: usize = 6;
const TILE_ROWS_16_REGISTERS: usize = 3;

/// Weights of a block of outputs: half of a core's L1 cache.
const BLOCK_WEIGHTS: usize = 6 * 1024;

/// Weights below which waking another thread costs more than it saves.
const MIN_TASK_WEIGHTS: usize = if cfg!(miri) { 32 } else { 64 * 1024 };

/// Adds `scale` `xs` `weight`ᵀ to `out`: `xs` `[rows, width]`, `weight` `[outputs, width]`, `out` `[rows,
/// outputs]`.
///
/// A row's bits depend neither on the other rows nor on the number of threads: each output is one dot
/// product, summed in the lanes of one vector register.
pub(super) fn batched_gemv_add(out: &mut [f32], scale: f32, xs: &[f32], weight: &[f32], width: usize) {
    let outputs = weight.len() / width;
    let count = (weight.len() / MIN_TASK_WEIGHTS).clamp(1, 4 * rayon::current_num_threads());
    let length = outputs.div_ceil(count).next_multiple_of(TILE_OUTPUTS);
    let mut tasks: Vec<OutputRange<'_>> = weight
        .chunks(length * width)
        .map(|weight| OutputRange { out: Vec::with_capacity(xs.len() / width), scale, xs, weight, width })
        .collect();
    for row in out.chunks_mut(outputs) {
        for (task, part) in tasks.iter_mut().zip(row.chunks_mut(length)) {
            task.out.push(part);
        }
    }
    let arch = Arch::new();
    if let [_] = tasks.as_slice() {
        tasks.into_iter().for_each(|task| arch.dispatch(task));
    } else {
        tasks.into_par_iter().for_each(|task| arch.dispatch(task));
    }
}

/// One task: some of the outputs, for all rows.
struct OutputRange<'a> {
    /// These outputs of each row.
    out: Vec<&'a mut [f32]>,
    scale: f32,
    xs: &'a [f32],
    /// The rows of the matrix that belong to these outputs.
    weight: &'a [f32],
    width: usize,
}

impl WithSimd for OutputRange<'_> {
    type Output = ();

    /// Splits the rows into groups of about equal size and multiplies each group with one block of weights
    /// after another. Each step prefetches as many lines as it takes for the next block to arrive in time.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (outputs, rows) = (self.weight.len() / self.width, self.out.len());
        let groups = rows.div_ceil(if S::REGISTER_COUNT < 32 { TILE_ROWS_16_REGISTERS } else { TILE_ROWS });
        let length = (BLOCK_WEIGHTS / self.width / TILE_OUTPUTS).max(1) * TILE_OUTPUTS;
        for first in (0..outputs).step_by(length) {
            let block = first..(first + length).min(outputs);
            let lines = TILE_OUTPUTS.div_ceil(groups);
            let mut prefetch = LinePrefetch::starting_at(self.weight, block.end * self.width, lines);
            let mut row = 0;
            for groups_left in (1..=groups).rev() {
                let group = (rows - row).div_ceil(groups_left);
                match group {
                    1 => self.group::<S, 1>(simd, &block, row, &mut prefetch),
                    2 => self.group::<S, 2>(simd, &block, row, &mut prefetch),
                    3 => self.group::<S, 3>(simd, &block, row, &mut prefetch),
                    4 => self.group::<S, 4>(simd, &block, row, &mut prefetch),
                    5 => self.group::<S, 5>(simd, &block, row, &mut prefetch),
                    _ => self.group::<S, TILE_ROWS>(simd, &block, row, &mut prefetch),
                }
                row += group;
            }
        }
    }
}

impl OutputRange<'_> {
    /// The outputs of a block for rows `row..row + R`.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        block: &Range<usize>,
        row: usize,
        prefetch: &mut LinePrefetch<'_>,
    ) {
        let whole = block.len() - block.len() % TILE_OUTPUTS;
        for first in (block.start..block.start + whole).step_by(TILE_OUTPUTS) {
            self.tile::<S, TILE_OUTPUTS, R>(simd, first, row, prefetch);
        }
        for first in block.start + whole..block.end {
            self.tile::<S, 1, R>(simd, first, row, prefetch);
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
        prefetch: &mut LinePrefetch<'_>,
    ) {
        let steps = self.width / S::F32_LANES;
        let mut weights: [(&[S::f32s], &[f32]); O] = [(&[], &[]); O];
        for (o, weights) in weights.iter_mut().enumerate() {
            let (vectors, rest) = S::as_simd_f32s(&self.weight[(first + o) * self.width..][..self.width]);
            *weights = (&vectors[..steps], rest);
        }
        let mut xs: [(&[S::f32s], &[f32]); R] = [(&[], &[]); R];
        for (r, xs) in xs.iter_mut().enumerate() {
            let (vectors, rest) = S::as_simd_f32s(&self.xs[(row + r) * self.width..][..self.width]);
            *xs = (&vectors[..steps], rest);
        }
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        let mut x = [simd.splat_f32s(0.0); R];
        for k in 0..steps {
            for r in 0..R {
                x[r] = xs[r].0[k];
            }
            prefetch.step();
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
            let out = &mut self.out[row + r][first..first + O];
            for o in 0..O {
                out[o] += self.scale * simd.reduce_sum_f32s(sums[o][r]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, normal_values, on_threads};
    use super::*;

    /// (outputs, width): with and without a remainder after whole vectors and after whole tiles.
    const SHAPES: &[(usize, usize)] =
        if cfg!(miri) { &[(7, 5), (9, 17)] } else { &[(7, 5), (64, 48), (330, 515), (128, 1000), (1, 16)] };

    fn product(rows: &[f32], weight: &[f32], width: usize, start: &[f32]) -> Vec<f32> {
        let mut to = start.to_vec();
        batched_gemv_add(&mut to, 0.5, rows, weight, width);
        to
    }

    #[test]
    fn equals_a_loop() {
        for &(outputs, width) in SHAPES {
            for rows in [1, 2, 5, 6, 7, 13] {
                let (xs, weight) = (normal_values(rows * width, 1), normal_values(outputs * width, 2));
                let start = normal_values(rows * outputs, 3);
                let expected: Vec<f64> = (0..rows * outputs)
                    .map(|i| {
                        let (r, o) = (i / outputs * width, i % outputs * width);
                        let terms = (0..width).map(|k| f64::from(xs[r + k]) * f64::from(weight[o + k]));
                        f64::from(start[i]) + 0.5 * terms.sum::<f64>()
                    })
                    .collect();
                assert_close(&product(&xs, &weight, width, &start), &expected, 1e-6);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "compares bits, and takes minutes there")]
    fn a_row_has_the_same_bits_for_every_number_of_rows_and_threads() {
        for &(outputs, width) in SHAPES {
            let (xs, weight) = (normal_values(33 * width, 4), normal_values(outputs * width, 5));
            let start = normal_values(33 * outputs, 6);
            let alone: Vec<f32> = (0..33)
                .flat_map(|r| {
                    product(&xs[r * width..][..width], &weight, width, &start[r * outputs..][..outputs])
                })
                .collect();
            for threads in 1..=3 {
                for rows in 1..=33 {
                    let found = on_threads(threads, || {
                        product(&xs[..rows * width], &weight, width, &start[..rows * outputs])
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
