//! The GEMM micro-kernel of attention: small matrix products whose sums stay in registers.
//!
//! Everything is `inline(always)`: a function that is not inlined into the dispatch is compiled without the
//! processor's vector instructions.

use pulp::Simd;

use super::epilogue::Epilogue;
use super::prefetch::Prefetch;

/// A matrix whose element (row, column) is `data[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// A matrix whose rows are contiguous, one every `stride` elements.
#[derive(Clone, Copy)]
pub(super) struct RowMajor<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

/// A [`RowMajor`] destination.
pub(super) struct RowMajorMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) stride: usize,
}

/// Rows of a register tile. With two vectors of columns these are 12 sums in flight: enough for two FMA units
/// of latency 4, and few enough for 16 registers.
const TILE_ROWS: usize = 6;

/// f32 lanes of the widest vector registers.
const MAX_LANES: usize = 16;

/// The least number of prefetch steps in a [`small_matmul`] of dimensions (m, n, k).
pub(super) const fn prefetch_steps((m, n, k): (usize, usize, usize)) -> usize {
    m.div_ceil(TILE_ROWS) * k * n.div_ceil(4 * MAX_LANES)
}

/// `c[m, n] (+)= a[m, k] b[k, n]`. Each element is one chain of fused multiply-adds in the order of k, so its
/// bits depend on no other row or column. `prefetch` takes one step for each k of each register tile. Where a
/// dimension is 0, `c` stays as it is.
///
/// # Panics
/// Where a matrix is smaller than (m, n, k).
#[inline(always)]
pub(super) fn small_matmul<S: Simd>(
    simd: S,
    (m, n, k): (usize, usize, usize),
    a: Lhs<'_>,
    b: RowMajor<'_>,
    mut c: RowMajorMut<'_>,
    epilogue: Epilogue,
    prefetch: &mut impl Prefetch,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(fits(a.data, (m, a.row_stride), (k, a.column_stride)), "the left matrix is too small");
    assert!(fits(b.data, (k, b.stride), (n, 1)), "the right matrix is too small");
    assert!(fits(c.data, (m, c.stride), (n, 1)), "the result is too small");
    let mut column = 0;
    // SAFETY: `fits` has checked the last element of each matrix, and column + V * F32_LANES never exceeds n.
    #[expect(unsafe_code, reason = "the bounds are checked once for the whole product")]
    unsafe {
        // The sums of a tile stay in registers, and AVX-512 has twice as many of those.
        if S::REGISTER_COUNT >= 32 {
            while column + 4 * S::F32_LANES <= n {
                column_panel::<S, 4>(simd, m, k, a, b, &mut c, column, epilogue, prefetch);
                column += 4 * S::F32_LANES;
            }
        }
        while column + 2 * S::F32_LANES <= n {
            column_panel::<S, 2>(simd, m, k, a, b, &mut c, column, epilogue, prefetch);
            column += 2 * S::F32_LANES;
        }
        while column + S::F32_LANES <= n {
            column_panel::<S, 1>(simd, m, k, a, b, &mut c, column, epilogue, prefetch);
            column += S::F32_LANES;
        }
    }
    for column in column..n {
        for row in 0..m {
            let mut sum = 0f32;
            for p in 0..k {
                let x = a.data[row * a.row_stride + p * a.column_stride];
                sum = x.mul_add(b.data[p * b.stride + column], sum);
            }
            let to = &mut c.data[row * c.stride + column];
            *to = match epilogue {
                Epilogue::Store => sum,
                Epilogue::Accumulate => *to + sum,
            };
        }
    }
}

/// Whether a matrix of `rows` times `columns` (at least one each) at these strides lies within `data`.
#[inline(always)]
fn fits(data: &[f32], (rows, row_stride): (usize, usize), (columns, column_stride): (usize, usize)) -> bool {
    let last_row = (rows - 1).checked_mul(row_stride);
    let last_column = (columns - 1).checked_mul(column_stride);
    last_row
        .zip(last_column)
        .and_then(|(row, column)| row.checked_add(column))
        .is_some_and(|last| last < data.len())
}

/// `V` vectors of columns of all rows.
///
/// # Safety
/// As [`tile`], for all of the m rows.
#[expect(clippy::too_many_arguments, reason = "a product has this many")]
#[expect(unsafe_code, reason = "it passes the contract of `tile` on")]
#[inline(always)]
unsafe fn column_panel<S: Simd, const V: usize>(
    simd: S,
    m: usize,
    k: usize,
    a: Lhs<'_>,
    b: RowMajor<'_>,
    c: &mut RowMajorMut<'_>,
    column: usize,
    epilogue: Epilogue,
    prefetch: &mut impl Prefetch,
) {
    let mut row = 0;
    // SAFETY: the tiles are of rows 0..m.
    unsafe {
        while row + TILE_ROWS <= m {
            tile::<S, TILE_ROWS, V>(simd, k, a, b, c, row, column, epilogue, prefetch);
            row += TILE_ROWS;
        }
        match m - row {
            1 => tile::<S, 1, V>(simd, k, a, b, c, row, column, epilogue, prefetch),
            2 => tile::<S, 2, V>(simd, k, a, b, c, row, column, epilogue, prefetch),
            3 => tile::<S, 3, V>(simd, k, a, b, c, row, column, epilogue, prefetch),
            4 => tile::<S, 4, V>(simd, k, a, b, c, row, column, epilogue, prefetch),
            5 => tile::<S, 5, V>(simd, k, a, b, c, row, column, epilogue, prefetch),
            _ => {}
        }
    }
}

/// `M` rows from `row` on by `V` vectors of columns from `column` on.
///
/// # Safety
/// `a` has these rows of k elements each, `b` has k rows that reach to the end of these columns, and `c` has
/// these rows and columns.
#[expect(clippy::too_many_arguments, reason = "a product has this many")]
#[expect(
    clippy::needless_range_loop,
    reason = "loops over constants are unrolled, and their arrays stay in registers"
)]
#[expect(unsafe_code, reason = "a bounds check costs as much as the multiplication it guards")]
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const V: usize>(
    simd: S,
    k: usize,
    a: Lhs<'_>,
    b: RowMajor<'_>,
    c: &mut RowMajorMut<'_>,
    row: usize,
    column: usize,
    epilogue: Epilogue,
    prefetch: &mut impl Prefetch,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    // SAFETY: the caller promises that every element that is touched lies in its slice, and `c` is borrowed
    // mutably. An `S::f32s` is plain f32 values, and `read_unaligned` and `write_unaligned` need no
    // alignment.
    unsafe {
        let a_start = a.data.as_ptr().add(row * a.row_stride);
        let b_start = b.data.as_ptr().add(column);
        let c_start = c.data.as_mut_ptr().add(row * c.stride + column);
        for p in 0..k {
            prefetch.step();
            let at = b_start.add(p * b.stride).cast::<S::f32s>();
            let mut right = [simd.splat_f32s(0.0); V];
            for v in 0..V {
                right[v] = at.add(v).read_unaligned();
            }
            for r in 0..M {
                let left = simd.splat_f32s(*a_start.add(r * a.row_stride + p * a.column_stride));
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(left, right[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let at = c_start.add(r * c.stride).cast::<S::f32s>();
            for (v, sum) in sums.iter().enumerate() {
                let sum = match epilogue {
                    Epilogue::Store => *sum,
                    Epilogue::Accumulate => simd.add_f32s(at.add(v).read_unaligned(), *sum),
                };
                at.add(v).write_unaligned(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::super::prefetch::NoPrefetch;
    use super::*;

    struct Product<'a> {
        dims: (usize, usize, usize),
        a: &'a [f32],
        b: &'a [f32],
        c: &'a mut [f32],
    }

    impl WithSimd for Product<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (m, n, k) = self.dims;
            let a = Lhs { data: self.a, row_stride: 1, column_stride: m };
            let c = RowMajorMut { data: self.c, stride: n };
            small_matmul(
                simd,
                (m, n, k),
                a,
                RowMajor { data: self.b, stride: n },
                c,
                Epilogue::Accumulate,
                &mut NoPrefetch,
            );
        }
    }

    #[test]
    fn every_element_is_a_chain_of_fmas_in_the_order_of_k() {
        // Miri is a thousand times slower, and its vectors have one lane: the same tiles with fewer columns and terms.
        let (columns, k): (&[usize], _) =
            if cfg!(miri) { (&[1, 7], 2) } else { (&[1, 7, 16, 33, 50, 64], 19) };
        for m in 1..14 {
            for &n in columns {
                let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
                let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.71).cos()).collect();
                let mut c = vec![0.5f32; m * n];
                Arch::new().dispatch(Product { dims: (m, n, k), a: &a, b: &b, c: &mut c });
                for row in 0..m {
                    for column in 0..n {
                        let sum = (0..k).fold(0f32, |s, p| a[row + p * m].mul_add(b[p * n + column], s));
                        assert_eq!(c[row * n + column], 0.5 + sum, "{m} {n}: {row} {column}");
                    }
                }
            }
        }
    }
}
