//! Linear layers with frozen weights.

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::kernels::linear::{linear, linear_batch_invariant, linear_in_f32, linear_in_f32_batch_invariant};
use crate::kernels::lora::{LoraDelta, lora_linear, lora_linear_batch_invariant};

/// `y = x Wᵀ + b` with frozen W `[out, in]` and b `[out]`: only x gets a gradient.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FrozenLinear {
    /// From W `[out, in]` and b `[out]`.
    #[must_use]
    pub const fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// W `[out, in]`.
    #[must_use]
    pub const fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The same layer in f32 with `delta` `[out, in]` added to W.
    pub fn plus(&self, delta: &Tensor) -> Result<Self> {
        let wide = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F32);
        Ok(Self { weight: (wide(&self.weight)? + delta)?, bias: self.bias.as_ref().map(wide).transpose()? })
    }

    /// `[.., in]` to `[.., out]`, in the type of xs.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let layer = self.in_type_of(xs)?;
        linear(xs, &layer.weight, layer.bias.as_ref())
    }

    /// The layer for inputs of the type of xs: another one than that of W where a pass through a model in bf16 is in f32.
    fn in_type_of(&self, xs: &Tensor) -> Result<Cow<'_, Self>> {
        let dtype = xs.dtype();
        if self.weight.dtype() == dtype {
            return Ok(Cow::Borrowed(self));
        }
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?;
        Ok(Cow::Owned(Self { weight: self.weight.to_dtype(dtype)?, bias }))
    }

    /// As [`FrozenLinear::forward`], for decoding: without gradient, and the bits of a row do not depend on the other rows.
    pub fn forward_rows(&self, xs: &Tensor) -> Result<Tensor> {
        linear_batch_invariant(xs, &self.weight, self.bias.as_ref())
    }

    /// As [`FrozenLinear::forward`] without bias, and the result is in f32 whatever the type of W.
    pub fn forward_in_f32(&self, xs: &Tensor) -> Result<Tensor> {
        linear_in_f32(xs, &self.weight)
    }

    /// As [`FrozenLinear::forward_rows`] without bias, and the result is in f32 whatever the type of W.
    pub fn forward_rows_in_f32(&self, xs: &Tensor) -> Result<Tensor> {
        linear_in_f32_batch_invariant(xs, &self.weight)
    }

    /// As [`FrozenLinear::forward`], with what an adapter adds.
    pub(super) fn adapted(&self, xs: &Tensor, delta: &LoraDelta) -> Result<Tensor> {
        let layer = self.in_type_of(xs)?;
        lora_linear(xs, &layer.weight, layer.bias.as_ref(), delta)
    }

    /// As [`FrozenLinear::forward_rows`], with what an adapter adds.
    pub(super) fn adapted_rows(&self, xs: &Tensor, delta: &LoraDelta) -> Result<Tensor> {
        lora_linear_batch_invariant(xs, &self.weight, self.bias.as_ref(), delta)
    }
}
