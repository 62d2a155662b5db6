//! Products with a frozen matrix. candle's own matmul computes and keeps a gradient for both of its arguments, frozen
//! or not: half of the backward pass and a copy of the model in memory for nothing. Here only the input gets one.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};

use super::lanes::by_rows;
use super::numbers::{numbers, takes, with_numbers};
use super::products::{Matrix, product};
use super::rows::add_rows;

/// `xs` `[.., in]` to `xs weightᵀ + bias` `[.., out]`, of `weight` `[out, in]` and `bias` `[out]`.
///
/// # Errors
/// Where the shapes do not fit; those of the tensor library.
pub(crate) fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let op = |bias: Option<&Tensor>| Product { weight: weight.clone(), bias: bias.cloned(), back: false };
    let xs = xs.contiguous()?;
    match bias {
        Some(bias) if !takes(&xs) => xs.apply_op1(op(None))?.broadcast_add(bias),
        _ => xs.apply_op1(op(bias)),
    }
}

/// As [`linear`], for decoding: no gradient, and a row's bits do not depend on the other rows.
///
/// # Errors
/// Those of [`linear`].
pub(crate) fn linear_rows(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if !takes(xs) {
        return linear(xs, weight, bias);
    }
    let xs = xs.contiguous()?;
    let (out, width) = weight.dims2()?;
    let shape = with_last(xs.dims(), width, out)?;
    let mut ys = started(bias, shape.elem_count() / out, out)?;
    with_numbers([&xs, weight], |[xs, weight]| {
        add_rows(&mut ys, 1.0, xs, weight, width);
        Ok(())
    })?;
    Tensor::from_vec(ys, shape, xs.device())
}

/// `xs` `weight` with the bias added to every row.
pub(super) fn product_and_bias(
    xs: Matrix<'_>,
    weight: Matrix<'_>,
    bias: Option<&Tensor>,
) -> Result<Vec<f32>> {
    let mut ys = product(1.0, xs, weight)?;
    if let Some(bias) = bias {
        with_numbers([bias], |[bias]| {
            by_rows(
                &mut ys,
                bias.len(),
                #[inline(always)]
                |_, ys| {
                    for row in ys.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                    }
                },
            );
            Ok(())
        })?;
    }
    Ok(ys)
}

/// `[rows, out]` of the bias in every row, or of zeros.
pub(super) fn started(bias: Option<&Tensor>, rows: usize, out: usize) -> Result<Vec<f32>> {
    match bias {
        Some(bias) => with_numbers([bias], |[bias]| Ok(bias.repeat(rows))),
        None => Ok(vec![0.0; rows * out]),
    }
}

/// `dims` with `out` in the place of `width`, which is last.
pub(super) fn with_last(dims: &[usize], width: usize, out: usize) -> Result<Shape> {
    match dims {
        [before @ .., last] if *last == width => Ok(Shape::from([before, &[out]].concat())),
        _ => candle_core::bail!("a linear layer of width {width} was given {dims:?}"),
    }
}

/// The product with `weight`ᵀ, or `back` with `weight` itself.
struct Product {
    weight: Tensor,
    /// Only for kernels, see [`takes`].
    bias: Option<Tensor>,
    back: bool,
}

impl Product {
    /// The shape of the result, rows, and the result's and the input's width.
    fn plan(&self, layout: &Layout) -> Result<(Shape, usize, usize, usize)> {
        let (out, width) = self.weight.dims2()?;
        let (n, k) = if self.back { (width, out) } else { (out, width) };
        let shape = with_last(layout.dims(), k, n)?;
        let rows = shape.elem_count() / n;
        Ok((shape, rows, n, k))
    }

    /// By candle's matmul.
    fn by_candle<B: BackendStorage>(
        &self,
        xs: &B,
        layout: &Layout,
        weight: &B,
        shape: &Layout,
    ) -> Result<(B, Shape)> {
        let (product, m, n, k) = self.plan(layout)?;
        let matrix = Layout::contiguous_with_offset((m, k), layout.start_offset());
        let weight_layout = if self.back { shape.clone() } else { shape.transpose(0, 1)? };
        Ok((xs.matmul(weight, (1, m, n, k), &matrix, &weight_layout)?, product))
    }
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if !matches!(storage, CpuStorage::F32(_)) {
            let (weight, weight_layout) = self.weight.storage_and_layout();
            return match &*weight {
                Storage::Cpu(weight) => self.by_candle(storage, layout, weight, weight_layout),
                _ => candle_core::bail!("the weight is not on the CPU as its input is"),
            };
        }
        let (shape, _, _, k) = self.plan(layout)?;
        let xs = Matrix::new(numbers(storage, layout)?, k);
        let columns = self.weight.dim(1)?;
        let ys = with_numbers([&self.weight], |[weight]| {
            let weight = Matrix::new(weight, columns);
            product_and_bias(xs, if self.back { weight } else { weight.t() }, self.bias.as_ref())
        })?;
        Ok((CpuStorage::F32(ys), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (weight, weight_layout) = self.weight.storage_and_layout();
        match &*weight {
            Storage::Cuda(weight) => self.by_candle(storage, layout, weight, weight_layout),
            _ => candle_core::bail!("the weight is not on the GPU as its input is"),
        }
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self { weight: self.weight.clone(), bias: None, back: !self.back };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::testing::{agree, tensor, values};
    use super::*;

    #[test]
    fn equals_matmul_and_only_the_input_gets_a_gradient() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        for bias in [Some(&bias), None] {
            agree(
                &[tensor((2, 70, 40), 3)?],
                |xs| linear(&xs[0], &weight, bias),
                |xs| {
                    let ys = xs[0].broadcast_matmul(&weight.t()?)?;
                    bias.map_or(Ok(ys.clone()), |bias| ys.broadcast_add(bias))
                },
            )?;
        }
        let xs = Var::from_tensor(&tensor((3, 40), 4)?)?;
        let grads = linear(xs.as_tensor(), &weight, Some(&bias))?.sum_all()?.backward()?;
        assert!(grads.get(xs.as_tensor()).is_some());
        assert!(grads.get(&weight).is_none() && grads.get(&bias).is_none());
        Ok(())
    }

    #[test]
    fn rows_equal_whole_passes_and_take_views() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        let xs = tensor((40, 12), 3)?.t()?.narrow(0, 2, 7)?;
        for bias in [Some(&bias), None] {
            let found = linear_rows(&xs, &weight, bias)?;
            let whole = linear(&xs, &weight, bias)?;
            assert_eq!(found.dims(), [7, 30]);
            let off = (found - whole)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(off < 1e-5, "{off}");
        }
        assert!(linear_rows(&xs.t()?, &weight, None).is_err());
        Ok(())
    }

    #[test]
    fn takes_bf16() -> Result<()> {
        let device = Device::Cpu;
        let weight = Tensor::arange(0f32, 12f32, &device)?.reshape((3, 4))?.to_dtype(DType::BF16)?;
        let bias = Tensor::new(&[1f32, 2., 3.], &device)?.to_dtype(DType::BF16)?;
        let xs =
            Tensor::arange(0f32, 24f32, &device)?.reshape((6, 4))?.to_dtype(DType::BF16)?.narrow(0, 2, 3)?;
        let expected = values(&xs.matmul(&weight.t()?)?.broadcast_add(&bias)?.to_dtype(DType::F32)?)?;
        for ys in [linear(&xs, &weight, Some(&bias))?, linear_rows(&xs, &weight, Some(&bias))?] {
            assert_eq!(values(&ys.to_dtype(DType::F32)?)?, expected);
        }
        Ok(())
    }
}
