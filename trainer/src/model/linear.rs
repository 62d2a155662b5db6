//! Linear layers with frozen weights.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};

/// `y = x Wᵀ + b` with W `[out, in]` and b `[out]` frozen.
///
/// candle's own matmul computes and keeps a gradient for both of its arguments, frozen or not: half of the
/// backward pass and a copy of the model in memory for nothing. Here only x gets one.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FrozenLinear {
    /// Of W `[out, in]` and b `[out]`.
    #[must_use]
    pub const fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The same layer in f32 with `delta` `[out, in]` added to W.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn plus(&self, delta: &Tensor) -> Result<Self> {
        let wide = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F32);
        Ok(Self { weight: (wide(&self.weight)? + delta)?, bias: self.bias.as_ref().map(wide).transpose()? })
    }

    /// `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = xs.contiguous()?.apply_op1(TimesTransposed { weight: self.weight.t()? })?;
        match &self.bias {
            Some(bias) => ys.broadcast_add(bias),
            None => Ok(ys),
        }
    }
}

/// x `[.., in]` times a frozen `[in, out]`.
struct TimesTransposed {
    weight: Tensor,
}

/// One multiplication of matrices.
struct Plan {
    /// Batch, rows, columns, and the width that is summed over.
    bmnk: (usize, usize, usize, usize),
    /// The input as a matrix.
    matrix: Layout,
    /// Of the product.
    shape: Shape,
}

impl TimesTransposed {
    /// ((batch, m, n, k), the layout of x as a matrix, the shape of the product).
    fn plan(&self, layout: &Layout) -> Result<Plan> {
        let (k, n) = self.weight.dims2()?;
        let dims = layout.dims();
        let m = layout.shape().elem_count() / k;
        let mut out = dims.to_vec();
        match out.last_mut() {
            Some(last) if *last == k => *last = n,
            _ => candle_core::bail!("a linear layer of width {k} was given {dims:?}"),
        }
        Ok(Plan {
            bmnk: (1, m, n, k),
            matrix: Layout::contiguous_with_offset((m, k), layout.start_offset()),
            shape: Shape::from(out),
        })
    }
}

impl CustomOp1 for TimesTransposed {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Plan { bmnk, matrix, shape } = self.plan(layout)?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        match &*weight {
            Storage::Cpu(weight) => Ok((storage.matmul(weight, bmnk, &matrix, weight_layout)?, shape)),
            _ => candle_core::bail!("the weight is not on the CPU as its input is"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let Plan { bmnk, matrix, shape } = self.plan(layout)?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        match &*weight {
            Storage::Cuda(weight) => Ok((storage.matmul(weight, bmnk, &matrix, weight_layout)?, shape)),
            _ => candle_core::bail!("the weight is not on the GPU as its input is"),
        }
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Self { weight: self.weight.t()? })?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};

    use super::FrozenLinear;

    #[test]
    fn equals_matmul_and_only_the_input_gets_a_gradient() -> candle_core::Result<()> {
        let device = Device::Cpu;
        let weight = Tensor::arange(0f32, 12f32, &device)?.reshape((3, 4))?;
        let bias = Tensor::new(&[1f32, 2., 3.], &device)?;
        let xs = Var::from_tensor(&Tensor::arange(0f32, 16f32, &device)?.reshape((2, 2, 4))?)?;
        let layer = FrozenLinear::new(weight.clone(), Some(bias.clone()));
        let ys = layer.forward(xs.as_tensor())?;
        let expected = xs.broadcast_matmul(&weight.t()?)?.broadcast_add(&bias)?;
        assert_eq!(ys.to_vec3::<f32>()?, expected.to_vec3::<f32>()?);

        let coefficients = Tensor::arange(0f32, 12f32, &device)?.reshape((2, 2, 3))?;
        let grads = (ys * &coefficients)?.sum_all()?.backward()?;
        let expected = coefficients.broadcast_matmul(&weight)?;
        let found = grads.get(xs.as_tensor()).expect("the input's gradient");
        assert_eq!(found.to_vec3::<f32>()?, expected.to_vec3::<f32>()?);
        assert!(grads.get(&weight).is_none());
        Ok(())
    }

    #[test]
    fn takes_bf16_weights_and_views() -> candle_core::Result<()> {
        let device = Device::Cpu;
        let weight = Tensor::arange(0f32, 12f32, &device)?.reshape((3, 4))?.to_dtype(DType::BF16)?;
        let xs =
            Tensor::arange(0f32, 24f32, &device)?.reshape((6, 4))?.to_dtype(DType::BF16)?.narrow(0, 2, 3)?;
        let ys = FrozenLinear::new(weight.clone(), None).forward(&xs)?.to_dtype(DType::F32)?;
        let expected = xs.matmul(&weight.t()?)?.to_dtype(DType::F32)?;
        assert_eq!(ys.to_vec2::<f32>()?, expected.to_vec2::<f32>()?);
        Ok(())
    }
}
