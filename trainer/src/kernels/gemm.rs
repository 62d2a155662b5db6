//! Matrix products by the `gemm` crate, which candle's matmul uses too. Unlike candle's, these can accumulate
//! into their destination.

use std::mem::MaybeUninit;

use candle_core::Result;
use gemm::Parallelism;

use super::epilogue::Epilogue;

/// A view of a matrix in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Row-major: rows of `columns` elements.
    pub(super) const fn new(data: &'a [f32], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, transposed: false }
    }

    pub(super) const fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    const fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// The distance from one row to the next, and from one column to the next.
    const fn strides(&self) -> (isize, isize) {
        let stride = self.columns as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

/// `scale` `left` `right`. The depth is never split over threads, so the number of threads does not change
/// the order of a sum.
///
/// # Errors
/// Where the shapes do not fit.
pub(super) fn matmul(scale: f32, left: Matrix<'_>, right: Matrix<'_>) -> Result<Vec<f32>> {
    let len = left.shape().0.saturating_mul(right.shape().1);
    let mut out = Vec::with_capacity(len);
    gemm(Destination::Uninit(&mut out.spare_capacity_mut()[..len]), scale, left, right)?;
    // SAFETY: `gemm` has initialized the first `len` elements.
    #[expect(unsafe_code, reason = "initializing the vector first would write it twice")]
    unsafe {
        out.set_len(len);
    }
    Ok(out)
}

/// [`matmul`] into `out`.
///
/// # Errors
/// Where the shapes do not fit.
pub(super) fn matmul_into(
    out: &mut [f32],
    epilogue: Epilogue,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) -> Result<()> {
    gemm(Destination::Init(out, epilogue), scale, left, right)
}

/// Only initialized memory can be accumulated into, so nothing uninitialized is ever read.
enum Destination<'a> {
    /// Overwritten.
    Uninit(&'a mut [MaybeUninit<f32>]),
    Init(&'a mut [f32], Epilogue),
}

/// Where it succeeds, every element of the destination is initialized.
fn gemm(destination: Destination<'_>, scale: f32, left: Matrix<'_>, right: Matrix<'_>) -> Result<()> {
    let ((m, k), (depth, n)) = (left.shape(), right.shape());
    let (out, len, accumulate) = match destination {
        Destination::Uninit(out) => (out.as_mut_ptr().cast::<f32>(), out.len(), false),
        Destination::Init(out, epilogue) => (out.as_mut_ptr(), out.len(), epilogue == Epilogue::Accumulate),
    };
    if k != depth || m.checked_mul(n) != Some(len) {
        candle_core::bail!("a product of {m}x{k} and {depth}x{n} into {len} elements");
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let ((left_rs, left_cs), (right_rs, right_cs)) = (left.strides(), right.strides());
    // SAFETY: `out` points to m rows of n elements that are borrowed mutably, so `left` and `right` do not
    // overlap it. `Matrix::new` is the only way to make a matrix, so both hold all rows and columns at these
    // strides. gemm reads `out` only where it accumulates, and then `out` is initialized.
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    unsafe {
        if k == 0 && !accumulate {
            // gemm leaves the destination of an empty sum as it is.
            out.write_bytes(0, len);
            return Ok(());
        }
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            accumulate,
            left.data.as_ptr(),
            left_cs,
            left_rs,
            right.data.as_ptr(),
            right_cs,
            right_rs,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, normal_values, on_threads};
    use super::*;

    /// With sums of 2,800 terms, like a gradient summed over tokens.
    #[test]
    fn equals_a_loop_for_every_transposition_and_number_of_threads() -> Result<()> {
        for (m, k, n) in [(3, 5, 7), (70, 2800, 33), (1, 40, 600)] {
            let (a, b, start) = (normal_values(m * k, 1), normal_values(k * n, 2), normal_values(m * n, 3));
            let expected = |kept: f64| -> Vec<f64> {
                (0..m * n)
                    .map(|i| {
                        let terms = (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]));
                        kept * f64::from(start[i]) + 0.5 * terms.sum::<f64>()
                    })
                    .collect()
            };
            let transposed = |data: &[f32], columns: usize| -> Vec<f32> {
                (0..data.len())
                    .map(|i| data[i % (data.len() / columns) * columns + i / (data.len() / columns)])
                    .collect()
            };
            let (a_t, b_t) = (transposed(&a, k), transposed(&b, n));
            for left in [Matrix::new(&a, k), Matrix::new(&a_t, m).t()] {
                for right in [Matrix::new(&b, n), Matrix::new(&b_t, k).t()] {
                    for (epilogue, kept) in [(Epilogue::Accumulate, 1.0), (Epilogue::Store, 0.0)] {
                        let with_threads = |threads: usize| {
                            on_threads(threads, || {
                                let mut to = start.clone();
                                matmul_into(&mut to, epilogue, 0.5, left, right).map(|()| to)
                            })
                        };
                        let one = with_threads(1)?;
                        assert_close(&one, &expected(kept), 1e-5);
                        assert_eq!((with_threads(2)?, with_threads(3)?), (one.clone(), one.clone()));
                        if epilogue == Epilogue::Store {
                            assert_eq!(matmul(0.5, left, right)?, one);
                        }
                    }
                }
            }
        }
        let [six, four] = [Matrix::new(&[0.0; 6], 3), Matrix::new(&[0.0; 4], 2)];
        assert!(matmul(1.0, six, four).is_err());
        assert!(matmul_into(&mut [0.0; 3], Epilogue::Store, 1.0, six, six.t()).is_err());
        Ok(())
    }
}
