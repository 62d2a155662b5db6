//! RMSNorm.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use super::composed_op::composed_op1;
use super::elementwise::collect_row_chunks;
use super::storage::{f32_slice, is_supported, with_f32_slices};
use super::vector_math::dot;

/// `xs` `[.., width]` divided by its root mean square, times a frozen `weight` `[width]` in f32.
pub fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    if !is_supported(&xs) {
        return fused(&xs, weight, eps);
    }
    xs.apply_op1(RmsNormOp { weight: weight.clone(), eps: eps as f32 })
}

/// candle's fused operation in f32, rounded once.
fn fused(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let frozen = weight.clone();
    composed_op1(
        "rms-norm",
        xs,
        |xs| {
            let wide = xs.to_dtype(DType::F32)?;
            candle_nn::ops::rms_norm(&wide, weight, eps as f32)?.to_dtype(xs.dtype())
        },
        move |xs, dy| fused_backward(xs, &frozen, eps, dy),
    )
}

/// As [`RmsNormOp::bwd`], in f32 and rounded once.
fn fused_backward(xs: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let (wide, dy) = (xs.to_dtype(DType::F32)?, dy.to_dtype(DType::F32)?.broadcast_mul(weight)?);
    let inverse = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let along = ((&dy * &wide)?.mean_keepdim(D::Minus1)? * (inverse.sqr()? * &inverse)?)?;
    (dy.broadcast_mul(&inverse)? - wide.broadcast_mul(&along)?)?.to_dtype(xs.dtype())
}

struct RmsNormOp {
    weight: Tensor,
    eps: f32,
}

#[inline(always)]
fn inverse_rms(row: &[f32], eps: f32) -> f32 {
    (dot(row, row) / row.len() as f32 + eps).sqrt().recip()
}

impl CustomOp1 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (xs, width, eps) = (f32_slice(storage, layout)?, self.weight.elem_count(), self.eps);
        let ys = with_f32_slices([&self.weight], |[weight]| {
            Ok(collect_row_chunks(
                xs.len(),
                width,
                #[inline(always)]
                |first, ys| {
                    let xs = &xs[first * width..][..ys.len()];
                    for (ys, xs) in ys.chunks_exact_mut(width).zip(xs.chunks_exact(width)) {
                        let inverse = inverse_rms(xs, eps);
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
        let dx = with_f32_slices([xs, &grad, &self.weight], |[all, grads, weight]| {
            Ok(collect_row_chunks(
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
                        let inverse = inverse_rms(xs, eps);
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
    use super::super::testing::{
        assert_bf16_matches, assert_close, assert_matches_composed, normal_values, on_threads, tensor, values,
    };
    use super::*;

    #[test]
    fn equals_the_definition_in_f64() -> Result<()> {
        for width in [5, 64, 515] {
            let (xs, weight) = (normal_values(7 * width, 1), normal_values(width, 2));
            let expected: Vec<f64> = xs
                .chunks(width)
                .flat_map(|row| {
                    let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                    let root = (mean + 1e-5).sqrt();
                    row.iter().zip(&weight).map(move |(x, w)| f64::from(*x) / root * f64::from(*w))
                })
                .collect();
            let found = rms_norm(&tensor((1, 7, width), 1)?, &tensor(width, 2)?, 1e-5)?;
            assert_close(&values(&found)?, &expected, 1e-6);
        }
        Ok(())
    }

    /// The definition.
    fn composed(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
        xs.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)
    }

    #[test]
    fn matches_the_composed_form_in_value_and_gradient() -> Result<()> {
        for width in [5, 64, 515] {
            let weight = tensor(width, 2)?;
            let xs = tensor((1, 70, width), 3)?;
            for with_gradient in [rms_norm, fused] {
                assert_matches_composed(
                    std::slice::from_ref(&xs),
                    |t| with_gradient(&t[0], &weight, 1e-5),
                    |t| composed(&t[0], &weight, 1e-5),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn in_bf16_the_gradient_is_that_of_the_definition() -> Result<()> {
        let weight = tensor(64, 2)?;
        let (norm, defined) =
            (|t: &[Tensor]| rms_norm(&t[0], &weight, 1e-5), |t: &[Tensor]| composed(&t[0], &weight, 1e-5));
        assert_bf16_matches(&[tensor((1, 70, 64), 3)?], 1, norm, defined)
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
