//! What attention is made of: a small product of matrices that stays in registers.
//!
//! All of it is `inline(always)`: a function that is not inlined into the dispatch is compiled without the
//! processor's vector instructions.

use pulp::Simd;

use super::ahead::Ahead;

/// A matrix whose element (row, column) is `data[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

/// Rows of numbers that lie side by side, a row every `stride`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// Rows that are written.
pub(super) struct RowsMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
}

/// What a product does with what stands in its result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// Replaces it.
    Place,
    /// Adds to it.
    Sum,
}

/// Rows of a tile: with two vectors of columns each they are 12 sums in flight, enough for two units of latency 4
/// and few enough for 16 registers.
const TILE: usize = 6;

/// Of the widest vectors.
const MOST_LANES: usize = 16;

/// How many steps `ahead` is taken along in a [`product`] of (m, n, k), at the least.
pub(super) const fn steps((m, n, k): (usize, usize, usize)) -> usize {
    m.div_ceil(TILE) * k * n.div_ceil(4 * MOST_LANES)
}

/// `c[m, n] (+)= a[m, k] b[k, n]`. Each element is one chain of fused multiply-adds in the order of k, so its bits
/// depend on no other row and no other column. For each of k in each tile `ahead` takes a step.
///
/// # Panics
/// When a matrix is smaller than (m, n, k) say: a mistake of the caller's.
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    (m, n, k): (usize, usize, usize),
    a: Lhs<'_>,
    b: Rows<'_>,
    mut c: RowsMut<'_>,
    into: Into,
    ahead: &mut impl Ahead,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(
        (m - 1) * a.row_stride + (k - 1) * a.column_stride < a.data.len(),
        "the left matrix is too small"
    );
    assert!((k - 1) * b.stride + n <= b.data.len(), "the right matrix is too small");
    assert!((m - 1) * c.stride + n <= c.data.len(), "the result is too small");
    let mut column = 0;
    // Sums of a tile stay in registers, of which AVX-512 has twice as many.
    if S::REGISTER_COUNT >= 32 {
        while column + 4 * S::F32_LANES <= n {
            columns::<S, 4>(simd, m, k, a, b, &mut c, column, into, ahead);
            column += 4 * S::F32_LANES;
        }
    }
    while column + 2 * S::F32_LANES <= n {
        columns::<S, 2>(simd, m, k, a, b, &mut c, column, into, ahead);
        column += 2 * S::F32_LANES;
    }
    while column + S::F32_LANES <= n {
        columns::<S, 1>(simd, m, k, a, b, &mut c, column, into, ahead);
        column += S::F32_LANES;
    }
    for column in column..n {
        for row in 0..m {
            let mut sum = 0f32;
            for p in 0..k {
                let x = a.data[row * a.row_stride + p * a.column_stride];
                sum = x.mul_add(b.data[p * b.stride + column], sum);
            }
            let place = &mut c.data[row * c.stride + column];
            *place = if into == Into::Sum { *place + sum } else { sum };
        }
    }
}

/// `V` vectors of columns of all rows.
#[expect(clippy::too_many_arguments, reason = "a product has this many")]
#[inline(always)]
fn columns<S: Simd, const V: usize>(
    simd: S,
    m: usize,
    k: usize,
    a: Lhs<'_>,
    b: Rows<'_>,
    c: &mut RowsMut<'_>,
    column: usize,
    into: Into,
    ahead: &mut impl Ahead,
) {
    let mut row = 0;
    while row + TILE <= m {
        tile::<S, TILE, V>(simd, k, a, b, c, row, column, into, ahead);
        row += TILE;
    }
    match m - row {
        1 => tile::<S, 1, V>(simd, k, a, b, c, row, column, into, ahead),
        2 => tile::<S, 2, V>(simd, k, a, b, c, row, column, into, ahead),
        3 => tile::<S, 3, V>(simd, k, a, b, c, row, column, into, ahead),
        4 => tile::<S, 4, V>(simd, k, a, b, c, row, column, into, ahead),
        5 => tile::<S, 5, V>(simd, k, a, b, c, row, column, into, ahead),
        _ => {}
    }
}

#[expect(clippy::too_many_arguments, reason = "a product has this many")]
#[expect(
    clippy::needless_range_loop,
    reason = "loops over constants are unrolled, and their arrays stay in registers"
)]
#[expect(unsafe_code, reason = "a check of bounds costs as much as the multiplication it guards")]
#[inline(always)]
fn tile<S: Simd, const M: usize, const V: usize>(
    simd: S,
    k: usize,
    a: Lhs<'_>,
    b: Rows<'_>,
    c: &mut RowsMut<'_>,
    row: usize,
    column: usize,
    into: Into,
    ahead: &mut impl Ahead,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    // SAFETY: `product` has checked that the last element of each matrix lies in its slice, and `c` is borrowed
    // mutably there. Vectors of any alignment may be read and written by `read_unaligned` and `write_unaligned`.
    unsafe {
        let a_start = a.data.as_ptr().add(row * a.row_stride);
        let b_start = b.data.as_ptr().add(column);
        let c_start = c.data.as_mut_ptr().add(row * c.stride + column);
        for p in 0..k {
            ahead.step();
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
                let sum = match into {
                    Into::Place => *sum,
                    Into::Sum => simd.add_f32s(at.add(v).read_unaligned(), *sum),
                };
                at.add(v).write_unaligned(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::super::ahead::Nothing;
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
            let c = RowsMut { data: self.c, stride: n };
            product(simd, (m, n, k), a, Rows { data: self.b, stride: n }, c, Into::Sum, &mut Nothing);
        }
    }

    #[test]
    fn products_of_all_sizes_are_chains_in_the_order_of_k() {
        for m in 1..14 {
            for n in [1, 7, 16, 33, 50, 64] {
                let k = 19;
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
