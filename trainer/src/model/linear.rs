//! Linear layers with frozen weights.

use candle_core::{Result, Tensor};

use crate::kernels::linear::{linear, linear_rows};
use crate::kernels::lora::{Delta, adapted, adapted_rows};

/// `y = x Wᵀ + b` with W `[out, in]` and b `[out]` frozen: only x gets a gradient.
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

    /// W.
    #[must_use]
    pub const fn weight(&self) -> &Tensor {
        &self.weight
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
        linear(xs, &self.weight, self.bias.as_ref())
    }

    /// As [`FrozenLinear::forward`], for decoding: no gradient, and a row's bits do not depend on the other rows.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn forward_rows(&self, xs: &Tensor) -> Result<Tensor> {
        linear_rows(xs, &self.weight, self.bias.as_ref())
    }

    /// As [`FrozenLinear::forward`], with what an adapter adds.
    pub(super) fn adapted(&self, xs: &Tensor, delta: &Delta) -> Result<Tensor> {
        adapted(xs, &self.weight, self.bias.as_ref(), delta)
    }

    /// As [`FrozenLinear::forward_rows`], with what an adapter adds.
    pub(super) fn adapted_rows(&self, xs: &Tensor, delta: &Delta) -> Result<Tensor> {
        adapted_rows(xs, &self.weight, self.bias.as_ref(), delta)
    }
}
