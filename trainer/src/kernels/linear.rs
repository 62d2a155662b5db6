//! Linear layers with frozen weights. candle's matmul computes and keeps a gradient for both of its
//! arguments: half of the backward pass and a copy of the model in memory for nothing. Here only the input
//! gets one.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Storage, Tensor};

use super::batched_gemv::batched_gemv_add;
use super::elementwise::for_each_row_chunk;
use super::gemm::{Matrix, matmul};
use super::storage::{f32_slice, is_supported, with_f32_slices};

/// Rows of a weight that are in memory in f32 at a time.
pub(crate) const WIDENED_ROWS: usize = 8192;
/// On a GPU, products of up to so many rows take as long as reading the weights.
pub(crate) const TILE_ROWS: usize = 64;

/// `xs` `[.., in]` to `xs weightᵀ + bias` `[.., out]`, of `weight` `[out, in]` and `bias` `[out]`.
///
/// # Errors
/// Where the shapes do not fit.
pub(crate) fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let op = |bias: Option<&Tensor>| FrozenLinearOp {
        weight: weight.clone(),
        bias: bias.cloned(),
        transposed: false,
    };
    let xs = xs.contiguous()?;
    match bias {
        Some(bias) if !is_supported(&xs) => xs.apply_op1(op(None))?.broadcast_add(bias),
        _ => xs.apply_op1(op(bias)),
    }
}

/// `ys` `[.., out]` to `ys weight` `[.., in]`: the gradient of the input of [`linear`] from that of its output.
///
/// # Errors
/// As `linear`.
pub(super) fn linear_transposed(ys: &Tensor, weight: &Tensor) -> Result<Tensor> {
    ys.contiguous()?.apply_op1_no_bwd(&FrozenLinearOp {
        weight: weight.clone(),
        bias: None,
        transposed: true,
    })
}

/// `linear` for decoding: batch-invariant, which means that a row's bits do not depend on the other rows.
/// It has no gradient.
///
/// # Errors
/// As `linear`.
pub fn linear_batch_invariant(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if !is_supported(xs) {
        return in_tiles(xs, |tile| linear(tile, weight, bias));
    }
    let xs = xs.contiguous()?;
    let (out, width) = weight.dims2()?;
    let shape = output_shape(xs.dims(), width, out)?;
    let mut ys = broadcast_bias(bias, shape.elem_count() / out, out)?;
    with_f32_slices([&xs, weight], |[xs, weight]| {
        batched_gemv_add(&mut ys, 1.0, xs, weight, width);
        Ok(())
    })?;
    Tensor::from_vec(ys, shape, xs.device())
}

/// `[rows, in]` to `[rows, out]` in f32, of a `weight` `[out, in]` of any type: not rounded to the type of the weights,
/// which are widened a part at a time.
///
/// # Errors
/// As `linear`.
pub(crate) fn linear_in_f32(xs: &Tensor, weight: &Tensor) -> Result<Tensor> {
    by_widened_parts(xs, weight, |xs, part| linear(xs, part, None))
}

/// `ys` `[rows, out]` in f32 to `ys weight` `[rows, in]`: the gradient of the input of [`linear_in_f32`].
///
/// # Errors
/// As `linear`.
pub(super) fn linear_in_f32_transposed(ys: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let out = weight.dim(0)?;
    let mut sum: Option<Tensor> = None;
    for start in (0..out).step_by(WIDENED_ROWS) {
        let len = WIDENED_ROWS.min(out - start);
        let part = weight.narrow(0, start, len)?.to_dtype(DType::F32)?;
        let product = linear_transposed(&ys.narrow(D::Minus1, start, len)?, &part)?;
        sum = Some(sum.map_or(Ok(product.clone()), |sum| sum + product)?);
    }
    sum.ok_or_else(|| candle_core::Error::Msg("a head without rows".into()))
}

/// [`linear_in_f32`] for decoding: batch-invariant, and without a gradient.
///
/// # Errors
/// As `linear`.
pub(crate) fn linear_in_f32_batch_invariant(xs: &Tensor, weight: &Tensor) -> Result<Tensor> {
    by_widened_parts(xs, weight, |xs, part| linear_batch_invariant(xs, part, None))
}

/// The results of `product` of `xs` and some rows of `weight` after others, all in f32, side by side.
fn by_widened_parts(
    xs: &Tensor,
    weight: &Tensor,
    product: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let xs = xs.to_dtype(DType::F32)?;
    if weight.dtype() == DType::F32 {
        return product(&xs, weight);
    }
    let out = weight.dim(0)?;
    let parts = (0..out).step_by(WIDENED_ROWS).map(|start| {
        product(&xs, &weight.narrow(0, start, WIDENED_ROWS.min(out - start))?.to_dtype(DType::F32)?)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, D::Minus1)
}

/// Applies `layer` to tiles of the rows of `xs` `[.., in]`, all of the same size: a library chooses the order of its sums
/// by the number of rows, so a fixed number makes a row's bits independent of how many are decoded beside it.
pub(super) fn in_tiles(xs: &Tensor, layer: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count() / width;
    let padded = xs.reshape((rows, width))?.pad_with_zeros(0, 0, rows.next_multiple_of(TILE_ROWS) - rows)?;
    let tiles = (0..rows).step_by(TILE_ROWS).map(|start| layer(&padded.narrow(0, start, TILE_ROWS)?));
    let ys = Tensor::cat(&tiles.collect::<Result<Vec<_>>>()?, 0)?.narrow(0, 0, rows)?;
    let shape = output_shape(xs.dims(), width, ys.dim(1)?)?;
    ys.reshape(shape)
}

/// `xs` `weight` with the bias added to every row.
pub(super) fn matmul_and_bias(xs: Matrix<'_>, weight: Matrix<'_>, bias: Option<&Tensor>) -> Result<Vec<f32>> {
    let mut ys = matmul(1.0, xs, weight)?;
    if let Some(bias) = bias {
        with_f32_slices([bias], |[bias]| {
            for_each_row_chunk(
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

/// `[rows, out]`: the bias in every row, or zeros.
pub(super) fn broadcast_bias(bias: Option<&Tensor>, rows: usize, out: usize) -> Result<Vec<f32>> {
    match bias {
        Some(bias) => with_f32_slices([bias], |[bias]| Ok(bias.repeat(rows))),
        None => Ok(vec![0.0; rows * out]),
    }
}

/// `dims` with its last element, which must be `width`, replaced by `out`.
pub(super) fn output_shape(dims: &[usize], width: usize, out: usize) -> Result<Shape> {
    match dims {
        [before @ .., last] if *last == width => Ok(Shape::from([before, &[out]].concat())),
        _ => candle_core::bail!("a linear layer of width {width} was given {dims:?}"),
    }
}

/// The product with `weight`ᵀ, or with `weight` itself where `transposed`: the backward pass.
struct FrozenLinearOp {
    weight: Tensor,
    /// Only where kernels are supported.
    bias: Option<Tensor>,
    transposed: bool,
}

impl FrozenLinearOp {
    /// The shape of the result, its rows, and the widths of result and input.
    fn dimensions(&self, layout: &Layout) -> Result<(Shape, usize, usize, usize)> {
        let (out, width) = self.weight.dims2()?;
        let (n, k) = if self.transposed { (width, out) } else { (out, width) };
        let shape = output_shape(layout.dims(), k, n)?;
        let rows = shape.elem_count() / n;
        Ok((shape, rows, n, k))
    }

    fn candle_matmul<B: BackendStorage>(
        &self,
        xs: &B,
        layout: &Layout,
        weight: &B,
        shape: &Layout,
    ) -> Result<(B, Shape)> {
        let (product, m, n, k) = self.dimensions(layout)?;
        let matrix = Layout::contiguous_with_offset((m, k), layout.start_offset());
        let weight_layout = if self.transposed { shape.clone() } else { shape.transpose(0, 1)? };
        Ok((xs.matmul(weight, (1, m, n, k), &matrix, &weight_layout)?, product))
    }
}

impl CustomOp1 for FrozenLinearOp {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if !matches!(storage, CpuStorage::F32(_)) {
            let (weight, weight_layout) = self.weight.storage_and_layout();
            return match &*weight {
                Storage::Cpu(weight) => self.candle_matmul(storage, layout, weight, weight_layout),
                _ => candle_core::bail!("the weight is not on the CPU as its input is"),
            };
        }
        let (shape, _, _, k) = self.dimensions(layout)?;
        let xs = Matrix::new(f32_slice(storage, layout)?, k);
        let columns = self.weight.dim(1)?;
        let ys = with_f32_slices([&self.weight], |[weight]| {
            let weight = Matrix::new(weight, columns);
            matmul_and_bias(xs, if self.transposed { weight } else { weight.t() }, self.bias.as_ref())
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
            Storage::Cuda(weight) => self.candle_matmul(storage, layout, weight, weight_layout),
            _ => candle_core::bail!("the weight is not on the GPU as its input is"),
        }
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let backward = Self { weight: self.weight.clone(), bias: None, transposed: !self.transposed };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&backward)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::testing::{assert_matches_composed, tensor, values};
    use super::*;

    #[test]
    fn matches_matmul_and_only_the_input_gets_a_gradient() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        for bias in [Some(&bias), None] {
            assert_matches_composed(
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
    fn the_batch_invariant_form_matches_linear_and_accepts_views() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        let xs = tensor((40, 12), 3)?.t()?.narrow(0, 2, 7)?;
        for bias in [Some(&bias), None] {
            let found = linear_batch_invariant(&xs, &weight, bias)?;
            let whole = linear(&xs, &weight, bias)?;
            assert_eq!(found.dims(), [7, 30]);
            let off = (found - whole)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(off < 1e-5, "{off}");
        }
        assert!(linear_batch_invariant(&xs.t()?, &weight, None).is_err());
        Ok(())
    }

    #[test]
    fn in_bf16_the_bits_of_a_decoded_row_do_not_depend_on_the_others() -> Result<()> {
        let (weight, xs) = (tensor((330, 515), 1)?, tensor((TILE_ROWS + 3, 515), 2)?);
        let (weight, xs) = (weight.to_dtype(DType::BF16)?, xs.to_dtype(DType::BF16)?);
        let layers: [fn(&Tensor, &Tensor) -> Result<Tensor>; 2] =
            [|xs, weight| linear_batch_invariant(xs, weight, None), linear_in_f32_batch_invariant];
        for layer in layers {
            let found = layer(&xs, &weight)?.to_dtype(DType::F32)?;
            for row in [0, TILE_ROWS - 1, TILE_ROWS + 2] {
                let alone = layer(&xs.narrow(0, row, 1)?, &weight)?.to_dtype(DType::F32)?;
                assert!(values(&alone)? == values(&found.narrow(0, row, 1)?)?, "row {row}");
            }
        }
        Ok(())
    }

    #[test]
    fn accepts_bf16() -> Result<()> {
        let device = Device::Cpu;
        let weight = Tensor::arange(0f32, 12f32, &device)?.reshape((3, 4))?.to_dtype(DType::BF16)?;
        let bias = Tensor::new(&[1f32, 2., 3.], &device)?.to_dtype(DType::BF16)?;
        let xs =
            Tensor::arange(0f32, 24f32, &device)?.reshape((6, 4))?.to_dtype(DType::BF16)?.narrow(0, 2, 3)?;
        let expected = values(&xs.matmul(&weight.t()?)?.broadcast_add(&bias)?.to_dtype(DType::F32)?)?;
        for ys in [linear(&xs, &weight, Some(&bias))?, linear_batch_invariant(&xs, &weight, Some(&bias))?] {
            assert_eq!(values(&ys.to_dtype(DType::F32)?)?, expected);
        }
        Ok(())
    }
}
