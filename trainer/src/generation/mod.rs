//! Autoregressive generation with a key-value cache.
//!
//! All prompts on one image share the cache of what they have in common up to the image's end. Each image, and what
//! follows it in each prompt, is read by itself, even for a single prompt; only the tokens that are written are computed
//! in batches, and there no row knows of the others. So a response has the same bits whatever was written beside it.

mod at_once;
mod batch;

use std::sync::Arc;

use candle_core::Tensor;

pub use self::at_once::{Footprint, Largest, responses_at_once};
pub use self::batch::{Request, Requests};
use crate::error::Result;
use crate::io::stop::Stop;
use crate::kernels::pool::on_pool;
use crate::model::Llava;
use crate::model::language::KvCache;
use crate::model::lora::{Adapted, LoraAdapter};

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The sampled token ids; the last is an EOS if and only if `finished`.
    pub tokens: Vec<u32>,
    /// Whether it ended by itself, before `max_new_tokens`.
    pub finished: bool,
}

/// Writes responses with one model under one policy.
pub struct Generator<'a> {
    model: &'a Llava,
    adapter: Option<&'a LoraAdapter>,
    eos: &'a [u32],
    stop: Stop,
}

/// What the prompts on one image have in common, computed. Clones share it; it lives as long as the last of them and the
/// last response that goes on from it.
#[derive(Debug, Clone)]
pub struct SharedPrefix {
    ids: Arc<[u32]>,
    cache: Arc<KvCache>,
}

impl<'a> Generator<'a> {
    /// Responses end at any of `eos`; `stop` ends those that are being written.
    #[must_use]
    pub const fn new(model: &'a Llava, adapter: Option<&'a LoraAdapter>, eos: &'a [u32], stop: Stop) -> Self {
        Self { model, adapter, eos, stop }
    }

    fn adapted(&self) -> Option<Adapted<'a>> {
        self.adapter.map(Adapted::from)
    }

    /// Reads `prompt` up to the end of its image, whose features are `[n, hidden]`; `None` for a prompt without one.
    ///
    /// # Errors
    /// Those of [`Llava::embed`]; [`crate::error::Error::Interrupted`] between two layers.
    pub fn read_image(&self, prompt: &[u32], features: Option<&Tensor>) -> Result<Option<SharedPrefix>> {
        let image = self.model.config().image_token_id;
        let Some(last) = prompt.iter().rposition(|id| *id == image) else { return Ok(None) };
        let ids = &prompt[..=last];
        let mut cache = self.model.language.new_cache(ids.len());
        on_pool(self.model.device(), || {
            let embedded = self.model.embed(ids, features)?;
            self.model.language.fill(&embedded, &mut cache, self.adapted(), &self.stop)
        })?;
        Ok(Some(SharedPrefix { ids: ids.into(), cache: Arc::new(cache) }))
    }
}
