//! The language model: Llama and Mistral, which differ in their configs only.

mod attention;
mod decoder_layer;
mod kv_cache;
mod layout;
mod norm;
mod passes;
mod rope;

use candle_core::{DType, Device, Tensor};

pub use self::kv_cache::KvCache;
pub use self::layout::{Layout, Segment, Tree};
pub use self::passes::{Checkpoints, Limits};

use self::attention::Past;
use self::decoder_layer::DecoderLayer;
use self::kv_cache::Slot;
use self::norm::RmsNorm;
use self::rope::{Context, Rope};
use super::Mode;
use super::config::TextConfig;
use super::linear::FrozenLinear;
use super::lora::Adapted;
use super::weights::Weights;
use crate::error::Result;
use crate::io::stop::Stop;
use crate::kernels::head::log_probs;

/// Embeddings, decoder layers, final norm and head.
pub struct LanguageModel {
    embed_tokens: Tensor,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: FrozenLinear,
    rope: Rope,
    config: TextConfig,
}

impl LanguageModel {
    pub(super) fn load(weights: &Weights, config: &TextConfig, device: &Device) -> Result<Self> {
        let prefix = "language_model.model";
        let layers = config.num_hidden_layers;
        weights.ends_at(layers, &format!("{prefix}.layers.{layers}.input_layernorm.weight"))?;
        let embed_tokens =
            weights.get((config.vocab_size, config.hidden_size), &format!("{prefix}.embed_tokens.weight"))?;
        let head = "language_model.lm_head.weight";
        let lm_head = if config.tie_word_embeddings && !weights.contains(head) {
            embed_tokens.clone()
        } else {
            weights.get((config.vocab_size, config.hidden_size), head)?
        };
        Ok(Self {
            layers: (0..layers)
                .map(|i| DecoderLayer::load(weights, config, &format!("{prefix}.layers.{i}"), i))
                .collect::<Result<_>>()?,
            norm: RmsNorm::load(weights, config, &format!("{prefix}.norm.weight"))?,
            rope: Rope::new(config, embed_tokens.dtype(), device)?,
            embed_tokens,
            lm_head: FrozenLinear::new(lm_head, None),
            config: config.clone(),
        })
    }

    /// Its config.
    #[must_use]
    pub const fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The type its activations are in.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }

    /// Token ids to `[tokens, hidden]`.
    ///
    /// # Errors
    /// Those of the tensor library; an id beyond the vocabulary is one.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.embed_tokens.device())?;
        Ok(self.embed_tokens.index_select(&ids, 0)?)
    }

    /// A cache for `capacity` tokens in all.
    #[must_use]
    pub fn new_cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.layers.len(), capacity)
    }

    /// Embeddings `[tokens, hidden]` that follow what `cache` holds, to the last hidden states `[tokens, hidden]`
    /// before the final norm.
    ///
    /// # Errors
    /// [`crate::error::Error::Interrupted`] between two layers, after which the cache is of no use; those of the tensor
    /// library.
    pub fn forward_cached(
        &self,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<Adapted<'_>>,
        stop: &Stop,
    ) -> Result<Tensor> {
        let (_, state) = self.cached_up_to(self.layers.len(), embeddings, cache, adapter, stop)?;
        cache.advance(embeddings.dim(0)?);
        Ok(state.squeeze(0)?)
    }

    /// Reads embeddings `[tokens, hidden]` that follow what `cache` holds, after which nothing is predicted: an image that
    /// prompts follow. Of the last layer it takes keys and values alone.
    ///
    /// # Errors
    /// As [`LanguageModel::forward_cached`].
    pub fn fill(
        &self,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<Adapted<'_>>,
        stop: &Stop,
    ) -> Result<()> {
        let Some(last) = self.layers.len().checked_sub(1) else { return Ok(()) };
        let (context, state) = self.cached_up_to(last, embeddings, cache, adapter, stop)?;
        self.layers[last].fill(&state, &context, &mut cache.slot(last), adapter)?;
        cache.advance(embeddings.dim(0)?);
        Ok(())
    }

    /// The first `layers` layers over embeddings that follow what `cache` holds.
    fn cached_up_to(
        &self,
        layers: usize,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<Adapted<'_>>,
        stop: &Stop,
    ) -> Result<(Context, Tensor)> {
        let layout = Layout::continuation(cache.len(), embeddings.dim(0)?, self.config.sliding_window);
        let context = self.rope.context(&layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for (index, layer) in self.layers[..layers].iter().enumerate() {
            stop.check()?;
            let mut past = Past::Sequence(cache.slot(index));
            state = layer.forward(&state, &context, &mut past, adapter, Mode::Inference)?;
        }
        Ok((context, state))
    }

    /// One more token of several sequences: row i of `embeddings` `[rows, hidden]` follows what `caches[i]` holds. To
    /// the last hidden states `[rows, hidden]` before the final norm; a row has the same bits whatever the others are.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn decode(
        &self,
        embeddings: &Tensor,
        caches: &mut [&mut KvCache],
        adapter: Option<Adapted<'_>>,
    ) -> Result<Tensor> {
        let positions = caches.iter().map(|cache| cache.len());
        let context =
            self.rope.context_of_rows(positions, self.config.sliding_window, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut slots: Vec<Slot<'_>> = caches.iter_mut().map(|cache| cache.slot(index)).collect();
            let mut past = Past::Rows(&mut slots);
            state = layer.forward(&state, &context, &mut past, adapter, Mode::Decoding)?;
        }
        caches.iter_mut().for_each(|cache| cache.advance(1));
        Ok(state.squeeze(0)?)
    }

    /// Hidden states `[n, hidden]` before the final norm to logits `[n, vocab]` in f32.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Result<Tensor> {
        let normed = self.norm.forward(hidden)?;
        let logits = match mode {
            Mode::Inference | Mode::Training => self.lm_head.forward(&normed)?,
            Mode::Decoding => self.lm_head.forward_rows(&normed)?,
        };
        Ok(logits.to_dtype(DType::F32)?)
    }

    /// log p of each of `targets`, `[n]` in f32, from hidden states `[n, hidden]` before the final norm. On a CPU the
    /// logits of a few rows are in memory at a time.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn log_probs(&self, hidden: &Tensor, targets: &[u32]) -> Result<Tensor> {
        Ok(log_probs(&self.norm.forward(hidden)?, self.lm_head.weight(), targets)?)
    }
}
