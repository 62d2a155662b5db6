//! Positions, rotary embeddings and who may look at whom.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::config::TextConfig;
use crate::error::Result;
use crate::kernels::rope::rotate;

/// A run of tokens in a sequence that branches: each segment follows the prefix and knows nothing of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first token's place in the sequence.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
}

/// The positions of a sequence of tokens and the keys each may attend to.
///
/// Chosen and rejected share image and prompt: laid out as prefix, chosen, rejected, with the rejected tokens
/// at the positions that follow the prefix and blind to the chosen ones, the prefix is computed once for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Tokens that a cache holds already.
    past: usize,
    prefix: usize,
    branches: Vec<Segment>,
    sliding_window: Option<usize>,
}

impl Layout {
    /// `tokens` in a row after `past` cached ones.
    #[must_use]
    pub const fn continuation(past: usize, tokens: usize, sliding_window: Option<usize>) -> Self {
        Self { past, prefix: tokens, branches: Vec::new(), sliding_window }
    }

    /// A prefix and the responses that each follow it, of the lengths given.
    #[must_use]
    pub fn branching(prefix: usize, branches: &[usize], sliding_window: Option<usize>) -> Self {
        let mut start = prefix;
        let branches = branches
            .iter()
            .map(|len| {
                let segment = Segment { start, len: *len };
                start += len;
                segment
            })
            .collect();
        Self { past: 0, prefix, branches, sliding_window }
    }

    /// How many tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prefix + self.branches.iter().map(|b| b.len).sum::<usize>()
    }

    /// Where each branch lies.
    #[must_use]
    pub fn branches(&self) -> &[Segment] {
        &self.branches
    }

    fn positions(&self) -> Vec<u32> {
        let follow = |start: usize, len: usize| (start..start + len).map(|p| p as u32);
        let mut positions: Vec<u32> = follow(self.past, self.prefix).collect();
        for branch in &self.branches {
            positions.extend(follow(self.past + self.prefix, branch.len));
        }
        positions
    }

    /// `[tokens, past + tokens]`, 0 where a token may look and -inf where not; `None` where all may look at all.
    fn mask(&self) -> Option<Vec<f32>> {
        let tokens = self.tokens();
        let keys = self.past + tokens;
        let window = self.sliding_window.unwrap_or(usize::MAX);
        if tokens == 1 && keys <= window {
            return None;
        }
        let positions = self.positions();
        let branch_of =
            |token: usize| self.branches.iter().position(|b| (b.start..b.start + b.len).contains(&token));
        let branch: Vec<_> = (0..tokens).map(branch_of).collect();
        let mut mask = vec![f32::NEG_INFINITY; tokens * keys];
        for query in 0..tokens {
            for key in 0..keys {
                let (position, visible) = if key < self.past {
                    (key, true)
                } else {
                    let key = key - self.past;
                    (
                        positions[key] as usize,
                        key <= query && (branch[key].is_none() || branch[key] == branch[query]),
                    )
                };
                if visible && (positions[query] as usize) - position < window {
                    mask[query * keys + key] = 0.0;
                }
            }
        }
        Some(mask)
    }
}

/// cos and sin of every position, `[positions, head_dim / 2]`, and how to take rows of them.
pub(super) struct Rope {
    inverse_frequencies: Vec<f32>,
    factor: f32,
    dtype: DType,
}

/// What every layer of one pass shares.
pub(super) struct Context {
    cos: Tensor,
    sin: Tensor,
    /// `[tokens, keys]` in the activations' type.
    pub(super) mask: Option<Tensor>,
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
        let positions = layout.positions();
        let half = self.inverse_frequencies.len();
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|p| self.inverse_frequencies.iter().map(move |f| *p as f32 * (f / self.factor)))
            .collect();
        let angles = Tensor::from_vec(angles, (positions.len(), half), &Device::Cpu)?;
        let mask = match layout.mask() {
            Some(mask) => {
                let tokens = positions.len();
                let keys = mask.len() / tokens;
                Some(Tensor::from_vec(mask, (tokens, keys), device)?.to_dtype(self.dtype)?)
            }
            None => None,
        };
        Ok(Context {
            cos: angles.cos()?.to_dtype(self.dtype)?.to_device(device)?,
            sin: angles.sin()?.to_dtype(self.dtype)?.to_device(device)?,
            mask,
        })
    }
}

impl Context {
    /// Rotates `[1, heads, tokens, head_dim]`.
    pub(super) fn rotate(&self, xs: &Tensor) -> TensorResult<Tensor> {
        rotate(xs, 2, &self.cos, &self.sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(layout: &Layout) -> Vec<String> {
        let tokens = layout.tokens();
        let mask = layout.mask().expect("more than one token");
        let keys = mask.len() / tokens;
        mask.chunks(keys).map(|row| row.iter().map(|v| if *v == 0.0 { 'x' } else { '.' }).collect()).collect()
    }

    #[test]
    fn branches_follow_the_prefix_and_do_not_see_each_other() {
        let layout = Layout::branching(2, &[2, 1], None);
        assert_eq!(layout.positions(), [0, 1, 2, 3, 2]);
        assert_eq!(picture(&layout), ["x....", "xx...", "xxx..", "xxxx.", "xx..x"]);
    }

    #[test]
    fn a_window_counts_positions_of_the_branch() {
        let layout = Layout::branching(2, &[2, 1], Some(2));
        assert_eq!(picture(&layout), ["x....", "xx...", ".xx..", "..xx.", ".x..x"]);
        assert_eq!(picture(&Layout::continuation(2, 2, Some(3))), ["xxx.", ".xxx"]);
        assert!(Layout::continuation(5, 1, None).mask().is_none());
        assert_eq!(picture(&Layout::continuation(3, 1, Some(2))), ["..xx"]);
    }
}
