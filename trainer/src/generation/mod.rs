//! Autoregressive generation with a key-value cache.
//!
//! All prompts on one image share the cache of what they have in common up to the image's end. The split is made
//! even for a single prompt: a response has the same bits whichever of its siblings were computed with it.

use std::sync::Arc;

use candle_core::Tensor;
use stic_contract::recipe::Sampling;

use crate::algorithm::draw::Draw;
use crate::algorithm::sampling::next_token;
use crate::error::{Error, Result};
use crate::io::stop::Stop;
use crate::model::language::KvCache;
use crate::model::lora::{Adapted, LoraAdapter};
use crate::model::{Llava, Mode};

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

/// What the prompts on one image have in common, computed.
pub struct SharedPrefix {
    ids: Vec<u32>,
    cache: Arc<KvCache>,
}

impl<'a> Generator<'a> {
    /// Responses end at any of `eos`; `stop` ends a response that is being written.
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
    /// Those of [`Llava::embed`].
    pub fn read_image(&self, prompt: &[u32], features: Option<&Tensor>) -> Result<Option<SharedPrefix>> {
        let image = self.model.config().image_token_id;
        let Some(last) = prompt.iter().rposition(|id| *id == image) else { return Ok(None) };
        let ids = prompt[..=last].to_vec();
        let mut cache = self.model.language.new_cache(ids.len());
        self.model.language.forward_cached(&self.model.embed(&ids, features)?, &mut cache, self.adapted())?;
        Ok(Some(SharedPrefix { ids, cache: Arc::new(cache) }))
    }

    /// A response to `prompt`, going on from `shared` where the prompt starts with it.
    ///
    /// # Errors
    /// [`Error::Config`] when prompt and response do not fit the model's positions, [`Error::Data`] for a prompt
    /// that does not start as `shared` does.
    pub fn respond(
        &self,
        prompt: &[u32],
        shared: Option<&SharedPrefix>,
        sampling: &Sampling,
        draw: &mut Draw,
    ) -> Result<Generated> {
        let language = &self.model.language;
        let limit = language.config().max_position_embeddings;
        let capacity = (prompt.len() + sampling.max_new_tokens as usize).min(limit);
        if prompt.len() >= limit {
            return Err(Error::Data(format!(
                "the prompt has {} tokens with its image and leaves no room for a response in the model's {limit}; shorten the prompt",
                prompt.len()
            )));
        }
        let (mut cache, rest) = match shared {
            Some(shared) if prompt.len() > shared.ids.len() && prompt.starts_with(&shared.ids) => {
                (KvCache::follow(&shared.cache, capacity), &prompt[shared.ids.len()..])
            }
            Some(_) => {
                return Err(Error::Data("the prompt does not start as the image's other prompts do".into()));
            }
            None => (language.new_cache(capacity), prompt),
        };
        let mut hidden = language.forward_cached(&language.embed(rest)?, &mut cache, self.adapted())?;
        let mut tokens = Vec::new();
        while tokens.len() < sampling.max_new_tokens as usize && prompt.len() + tokens.len() < limit {
            let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
            let logits = language.logits(&last, Mode::Inference)?.squeeze(0)?.to_vec1::<f32>()?;
            let token = next_token(&logits, sampling, draw);
            tokens.push(token);
            self.stop.check()?;
            if self.eos.contains(&token) {
                return Ok(Generated { tokens, finished: true });
            }
            if cache.len() == capacity {
                break;
            }
            hidden = language.forward_cached(&language.embed(&[token])?, &mut cache, self.adapted())?;
        }
        Ok(Generated { tokens, finished: false })
    }
}
