//! Rotary embeddings, and what else the layers of one pass share.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::Mode;
use super::super::config::TextConfig;
use super::layout::Layout;
use crate::error::Result;
use crate::kernels::attention::Span;

/// The angles of positions.
pub(super) struct Rope {
    inverse_frequencies: Vec<f32>,
    factor: f32,
    dtype: DType,
}

/// What every layer of one pass shares.
pub(super) struct Context {
    /// `[tokens, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    /// Who looks at whom.
    pub(super) spans: Vec<Span>,
    /// How far back a token looks, itself included.
    pub(super) sliding_window: Option<usize>,
}

impl Rope {
    pub(super) fn new(config: &TextConfig, dtype: DType, _device: &Device) -> Result<Self> {
        let dim = config.head_dim;
        // In f32, exponent and power, as transformers computes them.
        let inverse_frequencies = (0..dim)
            .step_by(2)
            .map(|i| 1f32 / (config.rope_theta as f32).powf(i as f32 / dim as f32))
            .collect();
        Ok(Self { inverse_frequencies, factor: config.rope_factor as f32, dtype })
    }

    /// Of the tokens that `layout` lays out.
    pub(super) fn context(&self, layout: &Layout, device: &Device) -> TensorResult<Context> {
        let spans = layout.spans();
        let positions = spans.iter().flat_map(|span| span.position..span.position + span.len);
        let (cos, sin) = self.angles(positions, device)?;
        Ok(Context { cos, sin, spans, sliding_window: layout.sliding_window() })
    }

    /// Of one token each of sequences that have no more in common than the pass: at `positions`.
    pub(super) fn context_of_rows(
        &self,
        positions: impl Iterator<Item = usize>,
        sliding_window: Option<usize>,
        device: &Device,
    ) -> TensorResult<Context> {
        let (cos, sin) = self.angles(positions, device)?;
        Ok(Context { cos, sin, spans: Vec::new(), sliding_window })
    }

    /// cos and sin, `[positions, head_dim / 2]`.
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
        let to = |angles: Tensor| angles.to_dtype(self.dtype)?.to_device(device);
        Ok((to(angles.cos()?)?, to(angles.sin()?)?))
    }
}

impl Context {
    /// Rotates `[1, tokens, heads * head_dim]`.
    pub(super) fn rotate(&self, xs: &Tensor, heads: usize, mode: Mode) -> TensorResult<Tensor> {
        let (_, tokens, width) = xs.dims3()?;
        let by_head = xs.reshape((1, tokens, heads, width / heads))?.transpose(1, 2)?;
        let rotated = match mode {
            Mode::Inference => candle_nn::rotary_emb::rope(&by_head.contiguous()?, &self.cos, &self.sin)?,
            Mode::Training => candle_nn::rotary_emb::rope_slow(&by_head, &self.cos, &self.sin)?,
        };
        rotated.transpose(1, 2)?.contiguous()?.reshape((1, tokens, width))
    }
}
