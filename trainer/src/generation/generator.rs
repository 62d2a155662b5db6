//! The model, the policy and the end-of-sequence tokens that responses are generated with.

use std::sync::Arc;

use candle_core::Tensor;

use crate::cancellation::CancellationToken;
use crate::error::Result;
use crate::kernels::pool::on_pool;
use crate::model::VisionLanguageModel;
use crate::model::language::KvCache;
use crate::model::lora::{ActiveAdapter, LoraAdapter};

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The sampled token ids; the last is an EOS if and only if `finished`.
    pub tokens: Vec<u32>,
    /// Whether it ended with an EOS, before `max_new_tokens`.
    pub finished: bool,
}

/// Generates responses with one model under one policy.
pub struct Generator<'a> {
    pub(super) model: &'a VisionLanguageModel,
    pub(super) adapter: Option<&'a LoraAdapter>,
    pub(super) eos: &'a [u32],
    pub(super) cancellation: CancellationToken,
}

/// The prefilled common prefix of all prompts about one image. Clones share it; it is freed with the last of them and
/// the last response that continues it.
#[derive(Debug, Clone)]
pub struct SharedPrefix {
    pub(super) ids: Arc<[u32]>,
    pub(super) cache: Arc<KvCache>,
}

impl<'a> Generator<'a> {
    /// Responses end at any of `eos`; `cancellation` interrupts those that are being generated.
    #[must_use]
    pub const fn new(
        model: &'a VisionLanguageModel,
        adapter: Option<&'a LoraAdapter>,
        eos: &'a [u32],
        cancellation: CancellationToken,
    ) -> Self {
        Self { model, adapter, eos, cancellation }
    }

    pub(super) fn adapted(&self) -> Option<ActiveAdapter<'a>> {
        self.adapter.map(ActiveAdapter::from)
    }

    /// Prefills `prompt` up to the end of its image, whose features are `[n, hidden]`; `None` for a prompt without an
    /// image.
    ///
    /// # Errors
    /// [`crate::error::Error::Interrupted`] between two layers.
    pub fn prefill_image(&self, prompt: &[u32], features: Option<&Tensor>) -> Result<Option<SharedPrefix>> {
        let image = self.model.config().image_token_id;
        let Some(last) = prompt.iter().rposition(|id| *id == image) else { return Ok(None) };
        let ids = &prompt[..=last];
        let mut cache = self.model.language.new_cache(ids.len());
        on_pool(self.model.device(), || {
            let embedded = self.model.embed(ids, features)?;
            self.model.language.fill(&embedded, &mut cache, self.adapted(), &self.cancellation)
        })?;
        Ok(Some(SharedPrefix { ids: ids.into(), cache: Arc::new(cache) }))
    }
}
