//! RMS normalisation.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use super::lanes::{dot, made_by_rows};
use super::numbers::{numbers, takes, with_numbers};

/// `xs` `[.., width]` over the root of its mean square, times a frozen `weight` `[width]`.
///
/// # Errors
/// Those of the tensor library.
pub(crate) fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    if !takes(&xs) {
        return composed(&xs, weight, eps);
    }
    xs.apply_op1(RmsNorm { weight: weight.clone(), eps: eps as f32 })
}

/// candle's fused form has no gradient.
fn composed(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !xs.track_op() {
        return candle_nn::ops::rms_norm(xs, weight, eps as f32);
    }
    let wide = xs.to_dtype(DType::F32)?;
    let variance = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = wide.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.to_dtype(xs.dtype())?.broadcast_mul(weight)
}

struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

#[inline(always)]
fn inverse_root(row: &[f32], eps: f32) -> f32 {
    (dot(row, row) / row.len() as f32 + eps).sqrt().recip()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (xs, width, eps) = (numbers(storage, layout)?, self.weight.elem_count(), self.eps);
        let ys = with_numbers([&self.weight], |[weight]| {
            Ok(made_by_rows(
                xs.len(),
                width,
                #[inline(always)]
                |first, ys| {
                    let xs = &xs[first * width..][..ys.len()];
                    for (ys, xs) in ys.chunks_exact_mut(width).zip(xs.chunks_exact(width)) {
                        let inverse = inverse_root(xs, eps);
                        for ((y, x), weight) in ys.iter_mut().zip(xs).zip(weight) {
                            *y = x * inverse * weight;
                        }
                    }
                },
            ))
        })?;
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    /// With s = 1/sqrt(mean x² + eps): dx = s w dy - x s³ mean(w x dy).
    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (width, eps) = (self.weight.elem_count(), self.eps);
        let dx = with_numbers([xs, &grad, &self.weight], |[all, grads, weight]| {
            Ok(made_by_rows(
                all.len(),
                width,
                #[inline(always)]
                |first, dx| {
                    let part = first * width..first * width + dx.len();
                    let rows = all[part.clone()].chunks_exact(width).zip(grads[part].chunks_exact(width));
                    for (dx, (xs, dy)) in dx.chunks_exact_mut(width).zip(rows) {
                        for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                            *dx = dy * weight;
                        }
                        let inverse = inverse_root(xs, eps);
                        let along = inverse * inverse * inverse * dot(dx, xs) / width as f32;
                        for (dx, x) in dx.iter_mut().zip(xs) {
                            *dx = *dx * inverse - x * along;
                        }
                    }
                },
            ))
        })?;
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{agree, close, numbers, on_threads, tensor, values};
    use super::*;

    #[test]
    fn equals_the_definition_in_f64() -> Result<()> {
        for width in [5, 64, 515] {
            let (xs, weight) = (numbers(7 * width, 1), numbers(width, 2));
            let expected: Vec<f64> = xs
                .chunks(width)
                .flat_map(|row| {
                    let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                    let root = (mean + 1e-5).sqrt();
                    row.iter().zip(&weight).map(move |(x, w)| f64::from(*x) / root * f64::from(*w))
                })
                .collect();
            let found = rms_norm(&tensor((1, 7, width), 1)?, &tensor(width, 2)?, 1e-5)?;
            close(&values(&found)?, &expected, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn equals_what_candle_composes_in_value_and_gradient() -> Result<()> {
        for width in [5, 64, 515] {
            let weight = tensor(width, 2)?;
            let xs = tensor((1, 70, width), 3)?;
            agree(&[xs], |t| rms_norm(&t[0], &weight, 1e-5), |t| composed(&t[0], &weight, 1e-5))?;
        }
        Ok(())
    }

    #[test]
    fn a_row_has_the_same_bits_for_every_number_of_rows_and_threads() -> Result<()> {
        let (xs, weight) = (tensor((200, 515), 1)?, tensor(515, 2)?);
        let all = values(&rms_norm(&xs, &weight, 1e-5)?)?;
        for threads in 1..=3 {
            for rows in [1, 2, 33, 200] {
                let found = on_threads(threads, || rms_norm(&xs.narrow(0, 0, rows)?, &weight, 1e-5))?;
                assert!(values(&found)? == all[..rows * 515], "{rows} rows, {threads} threads");
            }
        }
        Ok(())
    }
}
