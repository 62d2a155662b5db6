//! RMS normalisation (transformers `MistralRMSNorm`).

use candle_core::{Result as TensorResult, Tensor};

use super::super::config::TextConfig;
use super::super::weights::Weights;
use crate::error::Result;
use crate::kernels::norm::rms_norm;

pub(super) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn load(weights: &Weights, config: &TextConfig, name: &str) -> Result<Self> {
        Ok(Self { weight: weights.get(config.hidden_size, name)?, eps: config.rms_norm_eps })
    }

    /// `[.., hidden]` to the same.
    pub(super) fn forward(&self, xs: &Tensor) -> TensorResult<Tensor> {
        rms_norm(xs, &self.weight, self.eps)
    }
}
