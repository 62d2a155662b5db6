//! A frozen linear layer and its LoRA matrices in one operation.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

use super::batched_gemv::batched_gemv_add;
use super::composed_op::composed_op3;
use super::epilogue::Epilogue;
use super::gemm::{Matrix, matmul, matmul_into};
use super::linear::{broadcast_bias, in_tiles, linear, linear_transposed, matmul_and_bias, output_shape};
use super::storage::{f32_slice, is_supported, with_f32_slices};

/// What LoRA adds to a linear layer: `scale b a xs`.
#[derive(Debug, Clone)]
pub(crate) struct LoraDelta {
    /// `[rank, in]` in f32.
    pub(crate) a: Tensor,
    /// `[out, rank]` in f32.
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

impl LoraDelta {
    /// What a frozen layer made, `[.., out]`, plus the delta of `xs` `[.., in]`, composed of candle's operations. The sum is
    /// in f32, rounded once: a delta of zero leaves the bits of the frozen layer.
    pub(crate) fn add_to(&self, frozen: &Tensor, xs: &Tensor) -> Result<Tensor> {
        let inner = wide_rows(xs)?.matmul(&self.a.t()?)?;
        let delta = (inner.matmul(&self.b.t()?)? * self.scale)?;
        (wide_rows(frozen)? + delta)?.to_dtype(frozen.dtype())?.reshape(frozen.shape())
    }
}

/// `[.., width]` to `[rows, width]` in f32.
fn wide_rows(xs: &Tensor) -> Result<Tensor> {
    xs.reshape(((), xs.dim(D::Minus1)?))?.to_dtype(DType::F32)
}

/// `xs` `[.., in]` to `xs weightᵀ + bias + delta` `[.., out]`, with gradients of xs, a and b.
///
/// # Errors
/// Where the shapes do not fit.
pub(crate) fn lora_linear(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    delta: &LoraDelta,
) -> Result<Tensor> {
    if !is_supported(xs) {
        return composed_with_gradient(xs, weight, bias, delta);
    }
    let op = LoraLinearOp {
        weight: weight.clone(),
        bias: bias.cloned(),
        scale: delta.scale as f32,
        inner: OnceLock::new(),
    };
    xs.contiguous()?.apply_op3(&delta.a, &delta.b, op)
}

fn composed_with_gradient(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    delta: &LoraDelta,
) -> Result<Tensor> {
    let (frozen, scale) = (weight.clone(), delta.scale);
    composed_op3(
        "adapted-linear",
        [xs, &delta.a, &delta.b],
        |[xs, a, b]| composed(xs, weight, bias, &LoraDelta { a: a.clone(), b: b.clone(), scale }),
        move |inputs, dy| composed_backward(inputs, &frozen, scale, dy),
    )
}

/// As [`LoraLinearOp::bwd`]: the product with the frozen weights in their type, all others and all sums in f32.
fn composed_backward(
    [xs, a, b]: [&Tensor; 3],
    weight: &Tensor,
    scale: f64,
    dy: &Tensor,
) -> Result<[Tensor; 3]> {
    let (wide_xs, wide_dy) = (wide_rows(xs)?, wide_rows(dy)?);
    let d_inner = (wide_dy.matmul(b)? * scale)?;
    let db = (wide_dy.t()?.matmul(&wide_xs.matmul(&a.t()?)?)? * scale)?;
    drop(wide_dy);
    let da = d_inner.t()?.matmul(&wide_xs)?;
    drop(wide_xs);
    let frozen = linear_transposed(dy, weight)?;
    let dx = (wide_rows(&frozen)? + d_inner.matmul(a)?)?.to_dtype(xs.dtype())?.reshape(xs.shape())?;
    Ok([dx, da, db])
}

fn composed(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: &LoraDelta) -> Result<Tensor> {
    delta.add_to(&linear(xs, weight, bias)?, xs)
}

/// [`lora_linear`] for decoding: batch-invariant, and without a gradient.
///
/// # Errors
/// Where the shapes do not fit.
pub(crate) fn lora_linear_batch_invariant(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    delta: &LoraDelta,
) -> Result<Tensor> {
    if !is_supported(xs) {
        return in_tiles(xs, |tile| composed(tile, weight, bias, delta));
    }
    let xs = xs.contiguous()?;
    let (out, width) = weight.dims2()?;
    let rank = delta.a.dim(0)?;
    let shape = output_shape(xs.dims(), width, out)?;
    let count = shape.elem_count() / out;
    let mut inner = vec![0.0; count * rank];
    let mut ys = broadcast_bias(bias, count, out)?;
    with_f32_slices([&xs, weight, &delta.a, &delta.b], |[xs, weight, a, b]| {
        batched_gemv_add(&mut inner, 1.0, xs, a, width);
        batched_gemv_add(&mut ys, 1.0, xs, weight, width);
        batched_gemv_add(&mut ys, delta.scale as f32, &inner, b, rank);
        Ok(())
    })?;
    Tensor::from_vec(ys, shape, xs.device())
}

struct LoraLinearOp {
    weight: Tensor,
    bias: Option<Tensor>,
    scale: f32,
    /// `a xs`, `[rows, rank]`, kept for the backward pass.
    inner: OnceLock<Vec<f32>>,
}

impl CustomOp3 for LoraLinearOp {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, width) = self.weight.dims2()?;
        let (rank, _) = a_layout.shape().dims2()?;
        let shape = output_shape(xs_layout.dims(), width, out)?;
        let xs = Matrix::new(f32_slice(xs, xs_layout)?, width);
        let a = Matrix::new(f32_slice(a, a_layout)?, width);
        let b = Matrix::new(f32_slice(b, b_layout)?, rank);
        let inner = matmul(1.0, xs, a.t())?;
        let mut ys = with_f32_slices([&self.weight], |[weight]| {
            matmul_and_bias(xs, Matrix::new(weight, width).t(), self.bias.as_ref())
        })?;
        matmul_into(&mut ys, Epilogue::Accumulate, self.scale, Matrix::new(&inner, rank), b.t())?;
        // An operation is applied once, so this is never set already.
        let _ = self.inner.set(inner);
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(inner) = self.inner.get() else {
            candle_core::bail!("the backward pass ran before the forward pass")
        };
        let (out, width) = self.weight.dims2()?;
        let rank = a.dim(0)?;
        let grad = grad.contiguous()?;
        let needs_dx = xs.track_op();
        let (dx, da, db) = with_f32_slices([&grad, xs, a, b, &self.weight], |[dy, xs, a, b, weight]| {
            let (dy, inner) = (Matrix::new(dy, out), Matrix::new(inner, rank));
            let d_inner = matmul(self.scale, dy, Matrix::new(b, rank))?;
            let d_inner = Matrix::new(&d_inner, rank);
            let db = matmul(self.scale, dy.t(), inner)?;
            let da = matmul(1.0, d_inner.t(), Matrix::new(xs, width))?;
            if !needs_dx {
                return Ok((None, da, db));
            }
            let mut dx = matmul(1.0, dy, Matrix::new(weight, width))?;
            matmul_into(&mut dx, Epilogue::Accumulate, 1.0, d_inner, Matrix::new(a, width))?;
            Ok((Some(dx), da, db))
        })?;
        let tensor = |values: Vec<f32>, shape: &Shape| Tensor::from_vec(values, shape, xs.device());
        Ok((
            dx.map(|dx| tensor(dx, xs.shape())).transpose()?,
            Some(tensor(da, a.shape())?),
            Some(tensor(db, b.shape())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::super::testing::{
        assert_bf16_matches, assert_matches_composed, gradients, on_threads, tensor, values,
    };
    use super::*;

    fn delta(tensors: &[Tensor]) -> LoraDelta {
        LoraDelta { a: tensors[0].clone(), b: tensors[1].clone(), scale: 1.5 }
    }

    #[test]
    fn matches_the_composed_form_in_value_and_gradients() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        let inputs = [tensor((1, 70, 40), 3)?, tensor((4, 40), 4)?, tensor((30, 4), 5)?];
        for bias in [Some(&bias), None] {
            for with_gradient in [lora_linear, composed_with_gradient] {
                assert_matches_composed(
                    &inputs,
                    |t| with_gradient(&t[0], &weight, bias, &delta(&t[1..])),
                    |t| composed(&t[0], &weight, bias, &delta(&t[1..])),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn in_bf16_the_gradients_are_those_of_the_definition() -> Result<()> {
        let weight = tensor((30, 40), 1)?.to_dtype(DType::BF16)?;
        let wide = weight.to_dtype(DType::F32)?;
        let inputs = [tensor((1, 70, 40), 3)?, tensor((4, 40), 4)?, tensor((30, 4), 5)?];
        assert_bf16_matches(
            &inputs,
            1,
            |t| lora_linear(&t[0], &weight, None, &delta(&t[1..])),
            |t| composed(&t[0], &wide, None, &delta(&t[1..])),
        )
    }

    #[test]
    fn only_what_is_trained_gets_a_gradient() -> Result<()> {
        let (xs, weight) = (tensor((7, 40), 1)?, tensor((30, 40), 2)?);
        let pair = [Var::from_tensor(&tensor((4, 40), 3)?)?, Var::from_tensor(&tensor((30, 4), 4)?)?];
        let delta = LoraDelta { a: pair[0].as_tensor().clone(), b: pair[1].as_tensor().clone(), scale: 1.0 };
        let grads = lora_linear(&xs, &weight, None, &delta)?.sum_all()?.backward()?;
        assert!(grads.get(&delta.a).is_some() && grads.get(&delta.b).is_some());
        assert!(grads.get(&xs).is_none() && grads.get(&weight).is_none());
        Ok(())
    }

    /// Activation checkpointing runs a layer twice, once without a graph: both must agree to the bit.
    #[test]
    fn has_the_same_bits_with_a_graph_and_without_and_for_every_number_of_threads() -> Result<()> {
        let weight = tensor((330, 515), 1)?;
        let inputs = [tensor((300, 515), 2)?, tensor((8, 515), 3)?, tensor((330, 8), 4)?];
        let with_threads = |threads: usize| {
            on_threads(threads, || {
                gradients(&inputs, 5, |t| lora_linear(&t[0], &weight, None, &delta(&t[1..])))
            })
        };
        let one = with_threads(1)?;
        assert!(with_threads(2)? == one && with_threads(3)? == one);
        assert!(values(&lora_linear(&inputs[0], &weight, None, &delta(&inputs[1..]))?)? == one[0]);
        Ok(())
    }

    #[test]
    fn the_batch_invariant_form_matches_and_a_row_does_not_depend_on_the_others() -> Result<()> {
        let (weight, bias) = (tensor((330, 515), 1)?, tensor(330, 2)?);
        let (xs, delta) = (tensor((9, 515), 3)?, delta(&[tensor((8, 515), 4)?, tensor((330, 8), 5)?]));
        let found = lora_linear_batch_invariant(&xs, &weight, Some(&bias), &delta)?;
        let whole = composed(&xs, &weight, Some(&bias), &delta)?;
        let (off, size) = ((&found - &whole)?.abs()?.max_all()?, whole.abs()?.max_all()?);
        assert!(off.to_scalar::<f32>()? < 1e-5 * size.to_scalar::<f32>()?);
        for row in 0..9 {
            let alone = lora_linear_batch_invariant(&xs.narrow(0, row, 1)?, &weight, Some(&bias), &delta)?;
            assert!(values(&alone)? == values(&found.narrow(0, row, 1)?)?, "row {row}");
        }
        Ok(())
    }
}
