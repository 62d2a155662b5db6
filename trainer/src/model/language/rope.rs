//! Rotary embeddings, and what else the layers of one pass share.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::Mode;
use super::super::config::TextConfig;
use super::layout::{Layout, Span};
use crate::error::Result;

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
    mask: OnceLock<Option<Tensor>>,
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

    pub(super) fn context(&self, layout: &Layout, device: &Device) -> TensorResult<Context> {
        let spans = layout.spans();
        let half = self.inverse_frequencies.len();
        let angles: Vec<f32> = spans
            .iter()
            .flat_map(|span| span.position..span.position + span.len)
            .flat_map(|p| self.inverse_frequencies.iter().map(move |f| p as f32 * (f / self.factor)))
            .collect();
        let angles = Tensor::from_vec(angles, (layout.tokens(), half), &Device::Cpu)?;
        Ok(Context {
            cos: angles.cos()?.to_dtype(self.dtype)?.to_device(device)?,
            sin: angles.sin()?.to_dtype(self.dtype)?.to_device(device)?,
            spans,
            sliding_window: layout.sliding_window(),
            mask: OnceLock::new(),
        })
    }
}

impl Context {
    /// Rotates `[1, heads, tokens, head_dim]`.
    pub(super) fn rotate(&self, xs: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        match mode {
            Mode::Inference => candle_nn::rotary_emb::rope(&xs.contiguous()?, &self.cos, &self.sin),
            Mode::Training => candle_nn::rotary_emb::rope_slow(xs, &self.cos, &self.sin),
        }
    }

    /// `[tokens, keys]` in the activations' type, 0 where a token may look and -inf where not; `None` where all may
    /// look at all. Made when it is first asked for.
    pub(super) fn mask(&self, keys: usize) -> TensorResult<Option<&Tensor>> {
        if let Some(mask) = self.mask.get() {
            return Ok(mask.as_ref());
        }
        let mask = dense_mask(&self.spans, keys, self.sliding_window);
        let mask = if mask.iter().all(|share| *share == 0.0) {
            None
        } else {
            let shape = (mask.len() / keys, keys);
            Some(Tensor::from_vec(mask, shape, self.cos.device())?.to_dtype(self.cos.dtype())?)
        };
        Ok(self.mask.get_or_init(|| mask).as_ref())
    }
}

/// `[tokens, keys]`, row by row.
fn dense_mask(spans: &[Span], keys: usize, sliding_window: Option<usize>) -> Vec<f32> {
    let window = sliding_window.unwrap_or(usize::MAX);
    let tokens: usize = spans.iter().map(|span| span.len).sum();
    let mut mask = vec![f32::NEG_INFINITY; tokens * keys];
    for span in spans {
        let row_of = |query: usize| (span.start + query) * keys;
        for query in 0..span.len {
            let row = &mut mask[row_of(query)..row_of(query + 1)];
            let too_far = (span.position + query + 1).saturating_sub(window);
            let hidden = too_far.saturating_sub(span.context_position).min(span.context.len());
            row[span.context.start + hidden..span.context.end].fill(0.0);
            let hidden = (query + 1).saturating_sub(window);
            row[span.first_key + hidden..=span.first_key + query].fill(0.0);
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(layout: &Layout, keys: usize) -> Vec<String> {
        let mask = dense_mask(&layout.spans(), keys, layout.sliding_window());
        mask.chunks(keys).map(|row| row.iter().map(|v| if *v == 0.0 { 'x' } else { '.' }).collect()).collect()
    }

    #[test]
    fn branches_follow_the_prefix_and_do_not_see_each_other() {
        let layout = Layout::branching(2, &[2, 1], None);
        assert_eq!(picture(&layout, 5), ["x....", "xx...", "xxx..", "xxxx.", "xx..x"]);
    }

    #[test]
    fn trees_do_not_see_each_other() {
        let layout = Layout::packed([(1, vec![1]), (2, vec![1, 1])], None);
        assert_eq!(picture(&layout, 6), ["x.....", "xx....", "..x...", "..xx..", "..xxx.", "..xx.x"]);
    }

    #[test]
    fn a_window_counts_positions_of_the_branch() {
        let layout = Layout::branching(2, &[2, 1], Some(2));
        assert_eq!(picture(&layout, 5), ["x....", "xx...", ".xx..", "..xx.", ".x..x"]);
        let layout = Layout::packed([(1, vec![]), (2, vec![1, 2])], Some(2));
        let expected = ["x.....", ".x....", ".xx...", "..xx..", "..x.x.", "....xx"];
        assert_eq!(picture(&layout, 6), expected);
        assert_eq!(picture(&Layout::continuation(2, 2, Some(3)), 4), ["xxx.", ".xxx"]);
        assert_eq!(picture(&Layout::continuation(3, 1, Some(2)), 4), ["..xx"]);
        assert_eq!(picture(&Layout::continuation(5, 1, None), 6), ["xxxxxx"]);
    }
}
