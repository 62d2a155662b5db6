//! How many responses are written at once: what memory holds, and no more than pays. No token depends on it.

use candle_core::{DType, Device};

use crate::kernels::numbers::take;
use crate::model::LlavaConfig;

/// Beyond this many, a step on a CPU is bound by arithmetic and not by reading the weights: more gains nothing.
const MOST_ON_CPU: usize = 32;
/// The same on a GPU.
const MOST_ON_GPU: usize = 256;

/// What generation takes beside the weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// While an image is read.
    pub image: u64,
    /// Of keys and values as long as a response is written, those of its image included: each may be on an image of its
    /// own.
    pub response: u64,
}

/// The largest image and response that are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Crops that an image becomes.
    pub crops: usize,
    /// Tokens that an image becomes.
    pub image_tokens: usize,
    /// Tokens of prompt and response, with their image.
    pub tokens: usize,
}

impl Footprint {
    /// Of `config` with values of type `dtype` on `device`. An estimate from above: the intermediate values of one layer at
    /// a time, and all attention scores where no kernel does without them.
    #[must_use]
    pub fn of(config: &LlavaConfig, dtype: DType, device: &Device, largest: Largest) -> Self {
        let (text, width) = (&config.text, dtype.size_in_bytes());
        let all_scores = |scores: usize| if take(device, dtype) { 0 } else { scores };
        let key_values = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * width;
        let tower = config.vision.as_ref().map_or(0, |vision| {
            let patches = vision.side() * vision.side() + 1;
            let pixels = vision.num_channels * vision.image_size * vision.image_size;
            let states = (vision.num_hidden_layers + 8) * vision.hidden_size + 2 * vision.intermediate_size;
            let scores = all_scores(2 * vision.num_attention_heads * patches);
            largest.crops * (4 * pixels * size_of::<f32>() + patches * (states + scores) * width)
        });
        let states = 8 * text.hidden_size + 3 * text.intermediate_size;
        let scores = all_scores(text.num_attention_heads * largest.image_tokens);
        let read =
            largest.image_tokens * (states * width + scores * (size_of::<f32>() + 2 * width) + key_values);
        Self { image: (tower + read) as u64, response: (largest.tokens * key_values) as u64 }
    }
}

/// `asked`; where that is 0, as many as `budget` bytes hold beside an image that is being read: at least one, at most
/// what pays on `device`.
#[must_use]
pub fn responses_at_once(asked: usize, budget: u64, footprint: Footprint, device: &Device) -> usize {
    if asked > 0 {
        return asked;
    }
    let held = budget.saturating_sub(footprint.image) / footprint.response.max(1);
    let most = if device.is_cpu() { MOST_ON_CPU } else { MOST_ON_GPU };
    usize::try_from(held).unwrap_or(usize::MAX).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint { image: 1000, response: 100 };

    #[test]
    fn memory_decides_between_one_and_what_pays() {
        let on_cpu = |asked, budget| responses_at_once(asked, budget, FOOTPRINT, &Device::Cpu);
        assert_eq!(on_cpu(0, 0), 1, "one must do");
        assert_eq!(on_cpu(0, 1000 + 199), 1);
        assert_eq!(on_cpu(0, 1000 + 200), 2);
        assert_eq!(on_cpu(0, 1000 + 3199), 31);
        assert_eq!(on_cpu(0, u64::MAX), MOST_ON_CPU);
        assert_eq!(on_cpu(77, 0), 77, "who asks for a number gets it");
    }
}
