//! Products of whole matrices, by the `gemm` crate that candle's own matmul uses. It can add to what is there, which
//! candle does not let it.

use std::mem::MaybeUninit;

use candle_core::Result;
use gemm::Parallelism;

/// A matrix in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` elements, one after another.
    pub(super) const fn new(data: &'a [f32], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, transposed: false }
    }

    pub(super) const fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    const fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// From one row to the next, and from one column to the next.
    const fn strides(&self) -> (isize, isize) {
        let stride = self.columns as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    Nothing,
    /// To what is there.
    Itself,
}

/// `scale` `left` `right`. The depth is never split over threads, so that their number does not change the order of a
/// sum.
///
/// # Errors
/// Where the shapes do not fit.
#[expect(unsafe_code, reason = "a vector is not to be written twice")]
pub(super) fn product(scale: f32, left: Matrix<'_>, right: Matrix<'_>) -> Result<Vec<f32>> {
    let len = left.shape().0 * right.shape().1;
    let mut made = Vec::with_capacity(len);
    write(&mut made.spare_capacity_mut()[..len], Onto::Nothing, scale, left, right)?;
    // SAFETY: every element of a product that is added to nothing was written.
    unsafe { made.set_len(len) }
    Ok(made)
}

/// [`product`] into `to`, added to `onto`.
///
/// # Errors
/// Where the shapes do not fit.
#[expect(unsafe_code, reason = "numbers are given for what need not be any yet")]
pub(super) fn product_into(
    to: &mut [f32],
    onto: Onto,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) -> Result<()> {
    // SAFETY: `write` leaves numbers there.
    let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [MaybeUninit<f32>]) };
    write(to, onto, scale, left, right)
}

/// Writes all of `to`, which it reads only where `onto` says so: numbers must be there then.
#[expect(unsafe_code, reason = "gemm takes pointers")]
fn write(
    to: &mut [MaybeUninit<f32>],
    onto: Onto,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) -> Result<()> {
    let ((m, k), (depth, n)) = (left.shape(), right.shape());
    if k != depth || to.len() != m * n {
        candle_core::bail!("a product of {m}x{k} and {depth}x{n} into {} elements", to.len());
    }
    if k == 0 && onto == Onto::Nothing {
        to.fill(MaybeUninit::new(0.0));
        return Ok(());
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let ((left_rs, left_cs), (right_rs, right_cs)) = (left.strides(), right.strides());
    // SAFETY: `to` holds m rows of n. `Matrix::new` is the only way to make one, so `left` and `right` hold all of their
    // rows and columns at the strides given, and they cannot overlap `to`, which is borrowed mutably. What `to` holds is
    // read where it is added to.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr().cast(),
            1,
            n as isize,
            onto == Onto::Itself,
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
    use super::super::testing::{close, numbers, on_threads};
    use super::*;

    /// Sums of 2,800 terms, as a gradient over tokens is.
    #[test]
    fn equals_a_loop_for_every_transposition_and_number_of_threads() -> Result<()> {
        for (m, k, n) in [(3, 5, 7), (70, 2800, 33), (1, 40, 600)] {
            let (a, b, start) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let expected = |onto: f64| -> Vec<f64> {
                (0..m * n)
                    .map(|i| {
                        let terms = (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]));
                        onto * f64::from(start[i]) + 0.5 * terms.sum::<f64>()
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
                    for (onto, factor) in [(Onto::Itself, 1.0), (Onto::Nothing, 0.0)] {
                        let of = |threads: usize| {
                            on_threads(threads, || {
                                let mut to = start.clone();
                                product_into(&mut to, onto, 0.5, left, right).map(|()| to)
                            })
                        };
                        let one = of(1)?;
                        close(&one, &expected(factor), 1e-5);
                        assert_eq!((of(2)?, of(3)?), (one.clone(), one.clone()));
                        if onto == Onto::Nothing {
                            assert_eq!(product(0.5, left, right)?, one);
                        }
                    }
                }
            }
        }
        let [six, four] = [Matrix::new(&[0.0; 6], 3), Matrix::new(&[0.0; 4], 2)];
        assert!(product(1.0, six, four).is_err());
        assert!(product_into(&mut [0.0; 3], Onto::Nothing, 1.0, six, six.t()).is_err());
        Ok(())
    }
}
