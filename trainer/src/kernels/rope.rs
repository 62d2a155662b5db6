//! Rotary position embeddings, on halves as transformers lays them out.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::lanes::made_by_rows;
use super::numbers::{numbers, takes, with_numbers};

/// Rotates the pairs (x[i], x[i + dim/2]) of `xs` `[.., dim]` by the angles of each token, whose cosines and sines are
/// `[tokens, dim / 2]`; the tokens lie along `axis` of `xs`.
///
/// # Errors
/// Where the shapes do not fit; those of the tensor library.
pub(crate) fn rotate(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, half) = cos.dims2()?;
    if xs.dim(axis)? != tokens || xs.dim(D::Minus1)? != 2 * half || sin.dims() != cos.dims() {
        candle_core::bail!("angles {:?} do not fit {:?} along axis {axis}", cos.shape(), xs.shape());
    }
    let xs = xs.contiguous()?;
    if !takes(&xs) {
        return composed(&xs, axis, cos, sin);
    }
    let repeats = xs.dims()[axis + 1..xs.rank() - 1].iter().product();
    xs.apply_op1(Rotation { cos: cos.clone(), sin: sin.clone(), repeats, back: false })
}

/// candle's fused form has no gradient, and takes tokens on the second axis from behind.
fn composed(xs: &Tensor, axis: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if axis == 2 && xs.rank() == 4 && !xs.track_op() {
        return candle_nn::rotary_emb::rope(xs, cos, sin);
    }
    let (tokens, half) = cos.dims2()?;
    let mut shape = vec![1; xs.rank()];
    (shape[axis], shape[xs.rank() - 1]) = (tokens, half);
    let (cos, sin) = (cos.reshape(shape.as_slice())?, sin.reshape(shape.as_slice())?);
    let (low, high) = (xs.narrow(D::Minus1, 0, half)?, xs.narrow(D::Minus1, half, half)?);
    let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_low, turned_high], D::Minus1)
}

struct Rotation {
    cos: Tensor,
    sin: Tensor,
    /// Rows in a row that are of the same token.
    repeats: usize,
    /// By the negative angle.
    back: bool,
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "rotary-embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, half) = self.cos.dims2()?;
        let (xs, width) = (numbers(storage, layout)?, 2 * half);
        let (repeats, sign) = (self.repeats, if self.back { -1.0 } else { 1.0 });
        let ys = with_numbers([&self.cos, &self.sin], |[cos, sin]| {
            Ok(made_by_rows(
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
        let back = Self { cos, sin, repeats: self.repeats, back: !self.back };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{agree, close, tensor, values};
    use super::*;

    fn angles(tokens: usize, half: usize) -> Result<(Tensor, Tensor)> {
        let angles = (tensor((tokens, half), 1)? * 3.0)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// transformers' `x cos + rotate_half(x) sin`, by hand, of x = arange(8).view(1, 1, 2, 4) and the angles
    /// [[0, 0], [pi/2, pi]].
    #[test]
    fn turns_halves_as_transformers_does() -> Result<()> {
        let device = candle_core::Device::Cpu;
        let xs = Tensor::arange(0f32, 8f32, &device)?.reshape((1, 1, 2, 4))?;
        let cos = Tensor::new(&[[1f32, 1.], [0., -1.]], &device)?;
        let sin = Tensor::new(&[[0f32, 0.], [1., 0.]], &device)?;
        let found = values(&rotate(&xs, 2, &cos, &sin)?)?;
        assert_eq!(found, [0., 1., 2., 3., -6., -5., 4., -7.]);
        Ok(())
    }

    #[test]
    fn equals_what_candle_composes_in_value_and_gradient_wherever_the_tokens_lie() -> Result<()> {
        for half in [4, 32] {
            let (cos, sin) = angles(70, half)?;
            for (shape, axis) in
                [((1, 3, 70, 2 * half), 2), ((1, 70, 3, 2 * half), 1), ((70, 1, 3, 2 * half), 0)]
            {
                let of = |t: &[Tensor]| rotate(&t[0], axis, &cos, &sin);
                agree(&[tensor(shape, 2)?], of, |t| composed(&t[0], axis, &cos, &sin))?;
            }
            let fused = candle_nn::rotary_emb::rope(&tensor((1, 3, 70, 2 * half), 2)?, &cos, &sin)?;
            let found = rotate(&tensor((1, 3, 70, 2 * half), 2)?, 2, &cos, &sin)?;
            close(&values(&found)?, &super::super::testing::wide(&values(&fused)?), 1e-6);
        }
        let (cos, sin) = angles(70, 4)?;
        assert!(rotate(&tensor((1, 3, 69, 8), 2)?, 2, &cos, &sin).is_err());
        Ok(())
    }
}
