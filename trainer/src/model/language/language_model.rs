//! Embeddings, decoder layers, final norm and head, with the passes that use a KV cache.

use candle_core::{DType, Tensor};

use super::attention::Past;
use super::decoder_layer::DecoderLayer;
use super::kv_cache::{CachedLayer, KvCache};
use super::layout::Layout;
use super::norm::FrozenRmsNorm;
use super::rope::{PassContext, Rope};
use crate::cancellation::CancellationToken;
use crate::error::Result;
use crate::kernels::log_probs::log_probs;
use crate::model::config::TextConfig;
use crate::model::linear::FrozenLinear;
use crate::model::lora::ActiveAdapter;
use crate::model::mode::Mode;
use crate::model::weights::Weights;

/// A decoder-only transformer.
pub struct LanguageModel {
    embed_tokens: Tensor,
    pub(super) layers: Vec<DecoderLayer>,
    norm: FrozenRmsNorm,
    lm_head: FrozenLinear,
    pub(super) rope: Rope,
    config: TextConfig,
}

impl LanguageModel {
    pub(in crate::model) fn load(weights: &Weights, config: &TextConfig) -> Result<Self> {
        let prefix = "language_model.model";
        let layers = config.num_hidden_layers;
        weights.require_last_layer(layers, &format!("{prefix}.layers.{layers}.input_layernorm.weight"))?;
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
            norm: FrozenRmsNorm::load(weights, config, &format!("{prefix}.norm.weight"))?,
            rope: Rope::new(config),
            embed_tokens,
            lm_head: FrozenLinear::new(lm_head, None),
            config: config.clone(),
        })
    }

    #[must_use]
    pub const fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The type of its activations.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }

    /// Token ids to `[tokens, hidden]`. An id beyond the vocabulary is an error.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.embed_tokens.device())?;
        Ok(self.embed_tokens.index_select(&ids, 0)?)
    }

    /// An empty cache with room for `capacity` tokens.
    #[must_use]
    pub fn new_cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.layers.len(), capacity)
    }

    /// Embeddings `[tokens, hidden]` that follow the tokens in `cache`, to the last hidden states `[tokens, hidden]`
    /// before the final norm.
    ///
    /// # Errors
    /// [`crate::error::Error::Interrupted`] between two layers, after which the cache must not be used.
    pub fn forward_cached(
        &self,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<ActiveAdapter<'_>>,
        cancellation: &CancellationToken,
    ) -> Result<Tensor> {
        let (_, state) = self.cached_up_to(self.layers.len(), embeddings, cache, adapter, cancellation)?;
        cache.advance(embeddings.dim(0)?);
        Ok(state.squeeze(0)?)
    }

    /// Prefills `cache` with embeddings `[tokens, hidden]` after which nothing is predicted, as those of an image that
    /// several prompts share. The last layer computes keys and values only.
    ///
    /// # Errors
    /// As [`LanguageModel::forward_cached`].
    pub fn fill(
        &self,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<ActiveAdapter<'_>>,
        cancellation: &CancellationToken,
    ) -> Result<()> {
        let Some(last) = self.layers.len().checked_sub(1) else { return Ok(()) };
        let (context, state) = self.cached_up_to(last, embeddings, cache, adapter, cancellation)?;
        self.layers[last].fill(&state, &context, &mut cache.layer(last), adapter)?;
        cache.advance(embeddings.dim(0)?);
        Ok(())
    }

    /// Runs the first `layers` layers over embeddings that follow the tokens in `cache`.
    fn cached_up_to(
        &self,
        layers: usize,
        embeddings: &Tensor,
        cache: &mut KvCache,
        adapter: Option<ActiveAdapter<'_>>,
        cancellation: &CancellationToken,
    ) -> Result<(PassContext, Tensor)> {
        let layout = Layout::continuation(cache.len(), embeddings.dim(0)?, self.config.sliding_window);
        let context = self.rope.context(&layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for (index, layer) in self.layers[..layers].iter().enumerate() {
            cancellation.check()?;
            let mut past = Past::Sequence(cache.layer(index));
            state = layer.forward(&state, &context, &mut past, adapter, Mode::Inference)?;
        }
        Ok((context, state))
    }

    /// Decodes one token of each of several sequences: row i of `embeddings` `[rows, hidden]` follows the tokens in
    /// `caches[i]`. Returns the last hidden states `[rows, hidden]` before the final norm. The bits of a row do not
    /// depend on the other rows.
    pub fn decode(
        &self,
        embeddings: &Tensor,
        caches: &mut [&mut KvCache],
        adapter: Option<ActiveAdapter<'_>>,
    ) -> Result<Tensor> {
        let positions = caches.iter().map(|cache| cache.len());
        let context = self.rope.decode_context(positions, self.config.sliding_window, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut cached: Vec<CachedLayer<'_>> =
                caches.iter_mut().map(|cache| cache.layer(index)).collect();
            let mut past = Past::Rows(&mut cached);
            state = layer.forward(&state, &context, &mut past, adapter, Mode::Decoding)?;
        }
        caches.iter_mut().for_each(|cache| cache.advance(1));
        Ok(state.squeeze(0)?)
    }

    /// Hidden states `[n, hidden]` before the final norm to logits `[n, vocab]` in f32.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Result<Tensor> {
        let normed = self.norm.forward(hidden)?;
        Ok(match mode {
            Mode::Inference | Mode::Training => self.lm_head.forward_in_f32(&normed)?,
            Mode::Decoding => self.lm_head.forward_rows_in_f32(&normed)?,
        })
    }

    /// log p of each of `targets`, `[n]` in f32, from hidden states `[n, hidden]` before the final norm. The logits of
    /// only a few rows are in memory at a time.
    pub fn log_probs(&self, hidden: &Tensor, targets: &[u32]) -> Result<Tensor> {
        Ok(log_probs(&self.norm.forward(hidden)?, self.lm_head.weight(), targets)?)
    }
}
