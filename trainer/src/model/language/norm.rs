//! RMS normalisation (transformers `MistralRMSNorm`).

use candle_core::{Result as TensorResult, Tensor};

use crate::error::Result;
use crate::kernels::norm::rms_norm;
use crate::model::config::TextConfig;
use crate::model::weights::Weights;

pub(super) struct FrozenRmsNorm {
    weight: Tensor,
    eps: f64,
}

impl FrozenRmsNorm {
    pub(super) fn load(weights: &Weights, config: &TextConfig, name: &str) -> Result<Self> {
        Ok(Self { weight: weights.get_f32(config.hidden_size, name)?, eps: config.rms_norm_eps })
    }

    /// `[.., hidden]` to the same.
    pub(super) fn forward(&self, xs: &Tensor) -> TensorResult<Tensor> {
        rms_norm(xs, &self.weight, self.eps)
    }
}
