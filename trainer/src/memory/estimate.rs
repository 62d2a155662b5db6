//! How much memory of a GPU a step takes, before one is occupied.
//!
//! Counts what is alive at the moments that can be the peak: the frozen weights, the adapter with its gradients and moments, what
//! the forward pass keeps for the backward pass, and the largest intermediate values beside them. Not counted are CUDA's context
//! and what the allocator loses to fragmentation, for which a tenth of the GPU is left free ([`usable`]).

use candle_core::DType;
use stic_contract::recipe::LoraTarget;

use crate::kernels::attention::CHUNK_QUERIES;
use crate::kernels::linear::{TILE_ROWS, WIDENED_ROWS};
use crate::kernels::log_probs::COMPOSED_CHUNK;
use crate::model::ModelConfig;
use crate::model::config::TextConfig;
use crate::model::lora::projection_shape;

const F32: u64 = size_of::<f32>() as u64;

/// What may be planned with of a GPU's memory.
#[must_use]
pub const fn usable(total: u64) -> u64 {
    total / 10 * 9
}

/// What the estimates of one model have in common.
#[derive(Debug, Clone, Copy)]
pub struct ModelMemory<'a> {
    pub config: &'a ModelConfig,
    /// The type of activations.
    pub dtype: DType,
    /// The frozen weights, in bytes.
    pub weights: u64,
}

/// The adapter of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterMemory {
    /// Bytes of its weights, which are in f32.
    pub bytes: u64,
    pub rank: usize,
    /// Whether another one stays in memory, which training continues.
    pub continues: bool,
    /// Whether its input is dropped out, for which a layer keeps several copies of its activations in f32.
    pub dropout: bool,
}

/// The largest pass of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargestPass {
    /// Tokens of all examples in it.
    pub tokens: usize,
    /// Tokens of the longest sequence in it: of a prompt with one response.
    pub sequence: usize,
    /// Tokens whose log-probability is computed.
    pub learned: usize,
    /// Crops of its largest image.
    pub crops: usize,
}

/// The largest image and response of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargestRequest {
    /// Crops of the image.
    pub crops: usize,
    pub image_tokens: usize,
    /// Tokens of prompt and response, without the image.
    pub text_tokens: usize,
}

/// The memory of a generation, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationMemory {
    /// The frozen weights and those of an adapter.
    pub weights: u64,
    /// While an image is encoded and prefilled.
    pub image: u64,
    /// The keys and values of a response and of its image. Responses about one image share those, but one may be left of each.
    pub response: u64,
    /// While a token of each of a tile of rows is decoded.
    pub decoding: u64,
}

impl GenerationMemory {
    /// The peak where so many responses are generated at a time.
    #[must_use]
    pub fn peak(&self, responses: usize) -> u64 {
        let responses = responses as u64;
        let decoding = responses.div_ceil(TILE_ROWS as u64).saturating_mul(self.decoding);
        self.weights
            .saturating_add(responses.saturating_mul(self.response))
            .saturating_add(self.image.max(decoding))
    }

    /// How many responses, up to `most`, can be generated at a time where `usable` bytes may be taken: at least one.
    #[must_use]
    pub fn batch_size(&self, usable: u64, most: usize) -> usize {
        // The peak grows with the number of responses.
        let (mut fits, mut too_many) = (1, most.saturating_add(1));
        while too_many - fits > 1 {
            let middle = usize::midpoint(fits, too_many);
            if self.peak(middle) <= usable { fits = middle } else { too_many = middle }
        }
        fits
    }
}

/// The memory of a training, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingMemory {
    /// What is alive throughout, with the inputs of all layers.
    base: u64,
    /// The most that the backward pass of a layer takes beside its activations.
    backward: u64,
    /// The most that the head or the vision tower takes.
    other: u64,
    /// The activations of one layer.
    pub layer: u64,
    /// What is kept of a layer whose activations are not: its input.
    pub layer_input: u64,
    pub layers: u64,
}

impl TrainingMemory {
    /// How many layers keep their activations where `usable` bytes may be taken.
    #[must_use]
    pub fn kept_layers(&self, usable: u64) -> u64 {
        (usable.saturating_sub(self.peak(0)) / self.layer.max(1)).min(self.layers)
    }

    /// The peak where so many layers keep their activations.
    #[must_use]
    pub fn peak(&self, kept: u64) -> u64 {
        // If all do, none is built for the backward pass.
        let built = if kept == self.layers { 0 } else { self.layer };
        let kept = kept * self.layer.saturating_sub(self.layer_input);
        self.base + kept + (built + self.backward).max(self.other)
    }
}

impl ModelMemory<'_> {
    fn width(&self) -> u64 {
        self.dtype.size_in_bytes() as u64
    }

    /// What a training takes.
    #[must_use]
    pub fn training(&self, adapter: AdapterMemory, pass: LargestPass) -> TrainingMemory {
        let (text, width, tokens) = (&self.config.text, self.width(), pass.tokens as u64);
        let layers = text.num_hidden_layers as u64;
        // Weights, two moments and gradients.
        let trained = adapter.bytes * (4 + u64::from(adapter.continues));
        let layer_input = tokens * text.hidden_size as u64 * width;
        let mut layer = tokens * activations(text) * width;
        if adapter.dropout {
            layer += tokens * kept_by_dropout(text, adapter.rank);
        }
        // The packed embeddings, the features of the images and the last hidden state are alive beside the layers.
        let of_pass = 3 * layer_input + mask(pass.tokens, pass.sequence) + layers * layer_input;
        TrainingMemory {
            base: self.weights + trained + of_pass,
            backward: self.layer_backward(tokens, pass.sequence as u64, adapter.rank as u64),
            other: self.head(pass.learned as u64).max(self.tower(pass.crops)),
            layer,
            layer_input,
            layers,
        }
    }

    /// What the backward pass of a layer takes besides its activations, in the operation that takes the most.
    fn layer_backward(&self, tokens: u64, sequence: u64, rank: u64) -> u64 {
        let (text, width) = (&self.config.text, self.width());
        let (hidden, inner) = (text.hidden_size as u64, text.intermediate_size as u64);
        let (queries, keys) = (query_width(text), key_width(text));
        // SwiGLU: five values in f32, and the gradients of its arguments and of its result.
        let swiglu = tokens * (inner * (5 * F32 + 3 * width) + hidden * width);
        // The projections: their result, its gradient and both halves of the gradient of the input.
        let down = tokens * (inner * (3 * F32 + 2 * width) + 2 * hidden * width + rank * F32);
        let attention = tokens * (3 * queries + 2 * keys + hidden) * width
            + 2 * tokens * keys * F32
            + self.scores(sequence, text.num_attention_heads as u64) * 4 * F32;
        swiglu.max(down).max(attention)
    }

    /// Scores of a chunk of queries over all keys.
    fn scores(&self, tokens: u64, heads: u64) -> u64 {
        heads * tokens.min(CHUNK_QUERIES as u64) * tokens
    }

    /// The logits of some rows, several times in f32, and the widened part of the head.
    fn head(&self, rows: u64) -> u64 {
        let text = &self.config.text;
        let (vocab, hidden) = (text.vocab_size as u64, text.hidden_size as u64);
        let widened =
            if self.dtype == DType::F32 { 0 } else { vocab.min(WIDENED_ROWS as u64) * hidden * F32 };
        rows.min(COMPOSED_CHUNK as u64) * vocab * 4 * F32 + 2 * rows * hidden * F32 + widened
    }

    /// The vision tower over the crops of an image, and the projected features.
    fn tower(&self, crops: usize) -> u64 {
        if crops == 0 {
            return 0;
        }
        let (width, crops) = (self.width(), crops as u64);
        self.config.vision.as_ref().map_or(0, |vision| {
            let patches = (vision.side() * vision.side() + 1) as u64;
            let (hidden, inner) = (vision.hidden_size as u64, vision.intermediate_size as u64);
            let pixels = (vision.num_channels * vision.image_size * vision.image_size) as u64;
            let states = (vision.num_hidden_layers as u64 + 4) * hidden + 3 * inner;
            // Of one crop at a time.
            let scores = vision.num_attention_heads as u64 * patches * patches * (2 * F32 + width);
            crops * (pixels * F32 + patches * states * width) + scores
        })
    }

    /// What generation takes with an adapter of so many bytes; 0 for none.
    #[must_use]
    pub fn generation(&self, adapter: u64, largest: LargestRequest) -> GenerationMemory {
        GenerationMemory {
            weights: self.weights + adapter,
            image: self.image(largest, adapter > 0),
            response: self.cache(largest.image_tokens + largest.text_tokens),
            decoding: self.decoding(),
        }
    }

    fn image(&self, largest: LargestRequest, adapted: bool) -> u64 {
        let (text, width, tokens) = (&self.config.text, self.width(), largest.image_tokens as u64);
        let (hidden, inner) = (text.hidden_size as u64, text.intermediate_size as u64);
        // SwiGLU in f32, or an adapted projection, which is added up in f32.
        let wide = if adapted { 4 * F32 } else { 3 * F32 };
        let mlp = tokens * (inner * (2 * width + wide) + 3 * hidden * width);
        let attention = tokens * (3 * query_width(text) + 2 * key_width(text) + 3 * hidden) * width
            + self.scores(tokens, text.num_attention_heads as u64) * 2 * F32;
        let prefill =
            mlp.max(attention) + mask(largest.image_tokens, largest.image_tokens) + tokens * hidden * width;
        prefill.max(self.tower(largest.crops))
    }

    /// The keys and values of so many tokens.
    fn cache(&self, tokens: usize) -> u64 {
        let text = &self.config.text;
        2 * (tokens * text.num_hidden_layers) as u64 * key_width(text) * self.width()
    }

    /// While one token of each row of a tile is decoded.
    fn decoding(&self) -> u64 {
        let text = &self.config.text;
        let (vocab, inner) = (text.vocab_size as u64, text.intermediate_size as u64);
        let rows = TILE_ROWS as u64;
        let widened = if self.dtype == DType::F32 { 0 } else { vocab.min(WIDENED_ROWS as u64) };
        (rows * vocab * 2 * F32 + widened * text.hidden_size as u64 * F32).max(rows * inner * 5 * F32)
    }
}

/// Bytes of an adapter's weights.
#[must_use]
pub fn adapter_bytes(config: &TextConfig, rank: usize, targets: &[LoraTarget]) -> u64 {
    let of_target = |target: &LoraTarget| {
        let (out, input) = projection_shape(config, *target);
        (rank * (out + input)) as u64
    };
    targets.iter().map(of_target).sum::<u64>() * config.num_hidden_layers as u64 * F32
}

const fn query_width(text: &TextConfig) -> u64 {
    (text.num_attention_heads * text.head_dim) as u64
}

const fn key_width(text: &TextConfig) -> u64 {
    (text.num_key_value_heads * text.head_dim) as u64
}

/// Values that the graph of a layer keeps for each token: the result of each operation.
const fn activations(text: &TextConfig) -> u64 {
    let (queries, keys) = (query_width(text), key_width(text));
    // The input, two norms, two projections into the residual stream and two sums; queries before and after the rotation and
    // what they attend to; keys before and after the rotation, and values; gate, up and their product.
    7 * text.hidden_size as u64 + 3 * queries + 3 * keys + 3 * text.intermediate_size as u64
}

/// Bytes that dropout keeps for each token: mask, wide input and their product; the adapter's product, scaled, and both
/// summands and the sum in f32.
fn kept_by_dropout(text: &TextConfig, rank: usize) -> u64 {
    let of_target = |target: LoraTarget| {
        let (out, input) = projection_shape(text, target);
        (3 * input + 4 * out + rank) as u64
    };
    LoraTarget::ALL.into_iter().map(of_target).sum::<u64>() * F32
}

/// The masks of a causal pass over sequences of so many tokens.
const fn mask(tokens: usize, sequence: usize) -> u64 {
    (tokens * sequence / 2) as u64 * F32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::human_bytes;

    /// The sizes of LLaVA-1.6-Mistral-7B.
    fn seven_b() -> ModelConfig {
        let dir = tempfile::tempdir().expect("a folder");
        let config = serde_json::json!({
            "model_type": "llava_next", "image_token_index": 32000, "vocab_size": 32064,
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "text_config": {
                "model_type": "mistral", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 14336,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
                "rope_theta": 1e6, "max_position_embeddings": 32768, "sliding_window": null, "hidden_act": "silu",
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
                "projection_dim": 768, "vocab_size": 32000,
            },
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
        ModelConfig::from_dir(dir.path()).expect("a config")
    }

    const CROPS: usize = 5;
    const WEIGHTS: u64 = 15_133_000_000;

    fn training(config: &ModelConfig, dtype: DType) -> TrainingMemory {
        let adapter = AdapterMemory {
            bytes: adapter_bytes(&config.text, 128, &LoraTarget::ALL),
            rank: 128,
            continues: false,
            dropout: false,
        };
        let weights = WEIGHTS / 2 * dtype.size_in_bytes() as u64;
        ModelMemory { config, dtype, weights }
            .training(adapter, LargestPass { tokens: 2700, sequence: 2550, learned: 300, crops: CROPS })
    }

    /// 2,400 tokens of image and prompt and two responses of 150.
    #[test]
    fn a_7b_in_bf16_trains_within_24_gb_with_the_activations_of_no_layer_kept() {
        let config = seven_b();
        let memory = training(&config, DType::BF16);
        assert!(memory.peak(0) < 24_000_000_000, "{}", memory.peak(0));
        assert_eq!(memory.kept_layers(usable(24 << 30)), 0);
        assert_eq!(memory.kept_layers(usable(80 << 30)), 32);
        let sizes = [memory.peak(0), memory.peak(32), memory.layer].map(human_bytes);
        assert_eq!(sizes, ["21.2 GiB", "34.1 GiB", "448.2 MiB"]);
        let largest = LargestRequest { crops: CROPS, image_tokens: 2880, text_tokens: 1100 };
        let generation =
            ModelMemory { config: &config, dtype: DType::BF16, weights: WEIGHTS }.generation(0, largest);
        let sizes = [generation.peak(1), generation.response].map(human_bytes);
        assert_eq!(sizes, ["15.3 GiB", "497.5 MiB"]);
        assert_eq!([24, 80].map(|gib| generation.batch_size(usable(gib << 30), 256)), [13, 117]);
    }

    #[test]
    fn more_layers_are_kept_with_more_memory_and_the_peak_stays_within_it() {
        let config = seven_b();
        for dtype in [DType::BF16, DType::F32] {
            let memory = training(&config, dtype);
            let mut before = 0;
            for gib in 20..200 {
                let usable = usable(gib << 30);
                let kept = memory.kept_layers(usable);
                assert!(kept >= before && kept <= memory.layers);
                assert!(kept == 0 || memory.peak(kept) <= usable, "{gib} GiB");
                before = kept;
            }
            assert_eq!(before, memory.layers);
        }
    }

    #[test]
    fn a_batch_has_as_many_responses_as_fit_and_at_least_one() {
        let memory = GenerationMemory { weights: 1000, image: 200, response: 110, decoding: 50 };
        assert_eq!(memory.peak(2), 1000 + 220 + 200);
        assert_eq!([0, 1420, 1419].map(|usable| memory.batch_size(usable, 8)), [1, 2, 1]);
        assert_eq!(memory.batch_size(u64::MAX, 8), 8);
        assert_eq!(memory.peak(usize::MAX), u64::MAX);
    }
}
