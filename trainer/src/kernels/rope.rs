//! Rotary position embeddings (RoPE), on halves as transformers lays them out.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use super::composed_op::composed_op1;
use super::elementwise::collect_row_chunks;
use super::storage::{f32_slice, is_supported, with_f32_slices};

/// Rotates the pairs `(x[i], x[i + dim/2])` of `xs` `[.., dim]` by the angles of each token, whose cosines and
/// sines are `[tokens, dim / 2]` in f32; the tokens lie along `axis` of `xs`.
///
/// # Errors
/// Where the shapes do not fit.
pub fn rotate(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, half) = cos.dims2()?;
    if xs.dim(axis)? != tokens || xs.dim(D::Minus1)? != 2 * half || sin.dims() != cos.dims() {
        candle_core::bail!("angles {:?} do not fit {:?} along axis {axis}", cos.shape(), xs.shape());
    }
    let xs = xs.contiguous()?;
    if !is_supported(&xs) {
        return fused(&xs, axis, cos, sin);
    }
    let repeats = xs.dims()[axis + 1..xs.rank() - 1].iter().product();
    xs.apply_op1(RotationOp { cos: cos.clone(), sin: sin.clone(), repeats, inverse: false })
}

/// candle's fused operation in f32, rounded once, with its inverse as gradient.
fn fused(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (of_backward_cos, of_backward_sin) = (cos.clone(), sin.clone());
    composed_op1(
        "rotary-embedding",
        xs,
        |xs| fused_forward(xs, axis, cos, sin),
        move |_, dy| fused_forward(&dy.contiguous()?, axis, &of_backward_cos, &of_backward_sin.neg()?),
    )
}

fn fused_forward(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, half) = cos.dims2()?;
    let before = xs.dims()[..axis].iter().product::<usize>();
    let by_token = xs.to_dtype(DType::F32)?.reshape((before, tokens, (), 2 * half))?;
    candle_nn::rotary_emb::rope_thd(&by_token, cos, sin)?.reshape(xs.shape())?.to_dtype(xs.dtype())
}

struct RotationOp {
    cos: Tensor,
    sin: Tensor,
    /// Consecutive rows that belong to the same token.
    repeats: usize,
    /// Rotates by the negative angle: the backward pass.
    inverse: bool,
}

impl CustomOp1 for RotationOp {
    fn name(&self) -> &'static str {
        "rotary-embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, half) = self.cos.dims2()?;
        let (xs, width) = (f32_slice(storage, layout)?, 2 * half);
        let (repeats, sign) = (self.repeats, if self.inverse { -1.0 } else { 1.0 });
        let ys = with_f32_slices([&self.cos, &self.sin], |[cos, sin]| {
            Ok(collect_row_chunks(
                xs.len(),
                width,
                #[inline(always)]
                |first, ys| {
                    let xs = &xs[first * width..][..ys.len()];
                    for (i, (ys, xs)) in ys.chunks_exact_mut(width).zip(xs.chunks_exact(width)).enumerate() {
                        let token = (first + i) / repeats % tokens;
                        let angles = cos[token * half..][..half].iter().zip(&sin[token * half..][..half]);
                        let (low, high) = xs.split_at(half);
                        let (to_low, to_high) = ys.split_at_mut(half);
                        let pairs = low.iter().zip(high).zip(to_low.iter_mut().zip(to_high));
                        for ((cos, sin), ((low, high), (to_low, to_high))) in angles.zip(pairs) {
                            let sin = sign * sin;
                            *to_low = low * cos - high * sin;
                            *to_high = high * cos + low * sin;
                        }
                    }
                },
            ))
        })?;
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let backward = Self { cos, sin, repeats: self.repeats, inverse: !self.inverse };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&backward)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_bf16_matches, assert_matches_composed, tensor, values};
    use super::*;

    /// The definition.
    fn composed(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (tokens, half) = cos.dims2()?;
        let mut shape = vec![1; xs.rank()];
        (shape[axis], shape[xs.rank() - 1]) = (tokens, half);
        let (cos, sin) = (cos.reshape(shape.as_slice())?, sin.reshape(shape.as_slice())?);
        let (low, high) = (xs.narrow(D::Minus1, 0, half)?, xs.narrow(D::Minus1, half, half)?);
        let rotated_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let rotated_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        Tensor::cat(&[rotated_low, rotated_high], D::Minus1)
    }

    fn angles(tokens: usize, half: usize) -> Result<(Tensor, Tensor)> {
        let angles = (tensor((tokens, half), 1)? * 3.0)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// transformers' `x cos + rotate_half(x) sin`, by hand, of x = arange(8).view(1, 1, 2, 4) and the angles
    /// [[0, 0], [pi/2, pi]].
    #[test]
    fn rotates_halves_as_transformers_does() -> Result<()> {
        let device = candle_core::Device::Cpu;
        let xs = Tensor::arange(0f32, 8f32, &device)?.reshape((1, 1, 2, 4))?;
        let cos = Tensor::new(&[[1f32, 1.], [0., -1.]], &device)?;
        let sin = Tensor::new(&[[0f32, 0.], [1., 0.]], &device)?;
        let found = values(&rotate(&xs, 2, &cos, &sin)?)?;
        assert_eq!(found, [0., 1., 2., 3., -6., -5., 4., -7.]);
        Ok(())
    }

    #[test]
    fn matches_the_composed_form_in_value_and_gradient_for_every_token_axis() -> Result<()> {
        for half in [4, 32] {
            let (cos, sin) = angles(70, half)?;
            for (shape, axis) in
                [((1, 3, 70, 2 * half), 2), ((1, 70, 3, 2 * half), 1), ((70, 1, 3, 2 * half), 0)]
            {
                for with_gradient in [rotate, fused] {
                    let kernel = |t: &[Tensor]| with_gradient(&t[0], axis, &cos, &sin);
                    assert_matches_composed(&[tensor(shape, 2)?], kernel, |t| {
                        composed(&t[0], axis, &cos, &sin)
                    })?;
                }
            }
        }
        let (cos, sin) = angles(70, 4)?;
        assert!(rotate(&tensor((1, 3, 69, 8), 2)?, 2, &cos, &sin).is_err());
        Ok(())
    }

    #[test]
    fn in_bf16_the_gradient_is_that_of_the_definition() -> Result<()> {
        let (cos, sin) = angles(70, 8)?;
        assert_bf16_matches(
            &[tensor((1, 70, 3, 16), 2)?],
            1,
            |t| rotate(&t[0], 1, &cos, &sin),
            |t| composed(&t[0], 1, &cos, &sin),
        )
    }
}
