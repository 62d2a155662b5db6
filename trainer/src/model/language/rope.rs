//! Rotary embeddings, and what all layers of one pass share.

use candle_core::{Device, Result as TensorResult, Tensor};

use super::layout::Layout;
use crate::kernels::attention::Mask;
use crate::kernels::rope::rotate;
use crate::model::config::TextConfig;

/// Computes the angles of positions.
pub(super) struct Rope {
    inverse_frequencies: Vec<f32>,
    factor: f32,
}

/// What all layers of one pass share.
pub(super) struct PassContext {
    /// `[tokens, head_dim / 2]` in f32.
    cos: Tensor,
    sin: Tensor,
    /// Which tokens attend to which.
    pub(super) mask: Mask,
}

impl Rope {
    pub(super) fn new(config: &TextConfig) -> Self {
        let dim = config.head_dim;
        // In f32, exponent and power, as transformers computes them.
        let inverse_frequencies = (0..dim)
            .step_by(2)
            .map(|i| 1f32 / (config.rope_theta as f32).powf(i as f32 / dim as f32))
            .collect();
        Self { inverse_frequencies, factor: config.rope_factor as f32 }
    }

    /// For the tokens of `layout`.
    pub(super) fn context(&self, layout: &Layout, device: &Device) -> TensorResult<PassContext> {
        let spans = layout.spans();
        let positions = spans.iter().flat_map(|span| span.position..span.position + span.len);
        let (cos, sin) = self.angles(positions, device)?;
        Ok(PassContext { cos, sin, mask: Mask::new(spans, layout.sliding_window()) })
    }

    /// For one token each of several sequences, at `positions`.
    pub(super) fn decode_context(
        &self,
        positions: impl Iterator<Item = usize>,
        sliding_window: Option<usize>,
        device: &Device,
    ) -> TensorResult<PassContext> {
        let (cos, sin) = self.angles(positions, device)?;
        Ok(PassContext { cos, sin, mask: Mask::new(Vec::new(), sliding_window) })
    }

    /// cos and sin in f32, `[positions, head_dim / 2]`.
    fn angles(
        &self,
        positions: impl Iterator<Item = usize>,
        device: &Device,
    ) -> TensorResult<(Tensor, Tensor)> {
        let half = self.inverse_frequencies.len();
        let angles: Vec<f32> = positions
            .flat_map(|p| self.inverse_frequencies.iter().map(move |f| p as f32 * (f / self.factor)))
            .collect();
        let angles = Tensor::from_vec(angles, ((), half), &Device::Cpu)?;
        Ok((angles.cos()?.to_device(device)?, angles.sin()?.to_device(device)?))
    }
}

impl PassContext {
    /// Rotates `[1, tokens, heads * head_dim]`.
    pub(super) fn rotate(&self, xs: &Tensor, heads: usize) -> TensorResult<Tensor> {
        let (_, tokens, width) = xs.dims3()?;
        let by_head = xs.reshape((1, tokens, heads, width / heads))?;
        rotate(&by_head, 1, &self.cos, &self.sin)?.reshape((1, tokens, width))
    }
}
