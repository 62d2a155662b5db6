//! How many responses are generated at a time: as many as fit in memory, and no more than pays. No token depends on it.

use candle_core::{DType, Device};

use crate::kernels::storage::supports;
use crate::model::ModelConfig;

/// Beyond this, a decoding step on a CPU is bound by arithmetic instead of reading weights: a larger batch gains nothing.
const MAX_ON_CPU: usize = 32;
const MAX_ON_GPU: usize = 256;

/// The memory that generation takes besides the weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// While an image is encoded and prefilled.
    pub image: u64,
    /// The KV cache of one response, its image included: each response may be about another image.
    pub response: u64,
}

/// The largest image and response to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargestRequest {
    /// Crops of the image.
    pub crops: usize,
    pub image_tokens: usize,
    /// Tokens of prompt and response, image tokens included.
    pub tokens: usize,
}

impl Footprint {
    /// An upper bound for values of type `dtype` on `device`: the intermediate values of one layer at a time, and all
    /// attention scores unless a kernel avoids storing them.
    #[must_use]
    pub fn of(config: &ModelConfig, dtype: DType, device: &Device, largest: LargestRequest) -> Self {
        let (text, width) = (&config.text, dtype.size_in_bytes());
        let all_scores = |scores: usize| if supports(device, dtype) { 0 } else { scores };
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
        let prefill =
            largest.image_tokens * (states * width + scores * (size_of::<f32>() + 2 * width) + key_values);
        Self { image: (tower + prefill) as u64, response: (largest.tokens * key_values) as u64 }
    }
}

/// `requested`; if that is 0, as many responses as fit into `budget` bytes beside one image that is being prefilled, but
/// at least one and at most what pays on `device`.
#[must_use]
pub fn batch_size(requested: usize, budget: u64, footprint: Footprint, device: &Device) -> usize {
    if requested > 0 {
        return requested;
    }
    let fitting = budget.saturating_sub(footprint.image) / footprint.response.max(1);
    let max = if device.is_cpu() { MAX_ON_CPU } else { MAX_ON_GPU };
    usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint { image: 1000, response: 100 };

    #[test]
    fn memory_decides_between_one_and_the_maximum_that_pays() {
        let on_cpu = |requested, budget| batch_size(requested, budget, FOOTPRINT, &Device::Cpu);
        assert_eq!(on_cpu(0, 0), 1, "one response is always tried");
        assert_eq!(on_cpu(0, 1000 + 199), 1);
        assert_eq!(on_cpu(0, 1000 + 200), 2);
        assert_eq!(on_cpu(0, 1000 + 3199), 31);
        assert_eq!(on_cpu(0, u64::MAX), MAX_ON_CPU);
        assert_eq!(on_cpu(77, 0), 77, "an explicit request overrides the estimate");
    }
}
