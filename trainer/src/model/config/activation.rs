//! Activation functions.

use candle_core::{DType, Result as TensorResult, Tensor};

use crate::data::fields::Fields;
use crate::error::Result;
use crate::kernels::swish::swish;

/// The activation functions of LLaVA checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(1.702 x).
    QuickGelu,
    /// x * Phi(x), by erf.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
    /// x * sigmoid(x).
    Silu,
    /// max(0, x).
    Relu,
}

impl Activation {
    /// The activation that the field `key` names, by transformers' names.
    pub(in crate::model) fn read(fields: &Fields<'_>, key: &str) -> Result<Option<Self>> {
        fields
            .text(key)?
            .map(|name| match name {
                "quick_gelu" => Ok(Self::QuickGelu),
                "gelu" => Ok(Self::Gelu),
                "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
                "silu" | "swish" => Ok(Self::Silu),
                "relu" => Ok(Self::Relu),
                _ => Err(fields
                    .wrong(key, "quick_gelu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu or relu")),
            })
            .transpose()
    }

    /// Of each element, in f32 and rounded once.
    pub fn forward(self, xs: &Tensor) -> TensorResult<Tensor> {
        let wide = xs.to_dtype(DType::F32)?;
        let ys = match self {
            Self::QuickGelu => swish(&wide, 1.702),
            Self::Gelu => wide.gelu_erf(),
            Self::GeluTanh => wide.gelu(),
            Self::Silu => swish(&wide, 1.0),
            Self::Relu => wide.relu(),
        };
        ys?.to_dtype(xs.dtype())
    }
}
