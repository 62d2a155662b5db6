//! RMS normalisation (transformers `MistralRMSNorm`).

use candle_core::{D, DType, Result as TensorResult, Tensor};

use super::super::Mode;
use super::super::config::TextConfig;
use super::super::weights::Weights;
use crate::error::Result;

pub(super) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn load(weights: &Weights, config: &TextConfig, name: &str) -> Result<Self> {
        Ok(Self { weight: weights.get(config.hidden_size, name)?, eps: config.rms_norm_eps })
    }

    /// `[1, tokens, hidden]` to the same.
    pub(super) fn forward(&self, xs: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        match mode {
            Mode::Inference => candle_nn::ops::rms_norm(&xs.contiguous()?, &self.weight, self.eps as f32),
            Mode::Training => {
                let wide = xs.to_dtype(DType::F32)?;
                let variance = wide.sqr()?.mean_keepdim(D::Minus1)?;
                let normed = wide.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
                normed.to_dtype(xs.dtype())?.broadcast_mul(&self.weight)
            }
        }
    }
}
