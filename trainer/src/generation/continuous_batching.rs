//! Continuous batching: each step decodes one token of every response in the batch, and a response that ends gives its
//! slot to the next request.

use std::ops::ControlFlow;

use candle_core::Tensor;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use stic_contract::recipe::Sampling;

use super::generator::{Generated, Generator, SharedPrefix};
use crate::algorithm::draw::Draw;
use crate::algorithm::sampling::Sampler;
use crate::error::{Error, Result};
use crate::kernels::pool::on_pool;
use crate::model::Mode;
use crate::model::language::KvCache;

/// A response to generate.
#[derive(Debug)]
pub struct Request<T> {
    /// Returned with the response.
    pub tag: T,
    /// The prompt's token ids, those of its image included.
    pub prompt: Vec<u32>,
    /// The prefilled beginning of the prompt; `None` for a prompt without an image.
    pub prefix: Option<SharedPrefix>,
    /// How tokens are sampled, and how many at most.
    pub sampling: Sampling,
    /// The random numbers of this response alone.
    pub draw: Draw,
}

/// Where requests come from, and where responses go.
pub trait RequestSource {
    /// Identifies a request.
    type Tag;

    /// The next request, built when a slot is free; `None` if there is none at the moment. It is called again after
    /// each response, which may lead to further requests.
    ///
    /// # Errors
    /// Any error ends generation.
    fn next(&mut self) -> Result<Option<Request<Self::Tag>>>;

    /// Called after each token of a response, before [`Self::complete`], with all of its tokens so far. A response that
    /// breaks off gives its slot to the next request and is not completed.
    fn on_token(&mut self, _tag: &Self::Tag, _tokens: &[u32]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Takes the response to the request with this tag.
    ///
    /// # Errors
    /// Any error ends generation.
    fn complete(&mut self, tag: Self::Tag, response: Generated) -> Result<()>;
}

/// A slot of the batch.
struct BatchSlot<T> {
    tag: T,
    cache: KvCache,
    response: PartialResponse,
}

struct PartialResponse {
    sampler: Sampler,
    tokens: Vec<u32>,
    /// The most tokens it can have.
    max_tokens: usize,
    finished: bool,
}

impl PartialResponse {
    fn push(&mut self, logits: &[f32], eos: &[u32]) -> Result<()> {
        let token = self.sampler.next_token(logits)?;
        self.tokens.push(token);
        self.finished = eos.contains(&token);
        Ok(())
    }

    const fn is_complete(&self) -> bool {
        self.finished || self.tokens.len() >= self.max_tokens
    }
}

impl<T> BatchSlot<T> {
    /// Whether the source still wants the response, which has one more token.
    fn is_wanted(&self, source: &mut impl RequestSource<Tag = T>) -> bool {
        source.on_token(&self.tag, &self.response.tokens).is_continue()
    }

    fn deliver(self, source: &mut impl RequestSource<Tag = T>) -> Result<()> {
        let PartialResponse { tokens, finished, .. } = self.response;
        source.complete(self.tag, Generated { tokens, finished })
    }
}

impl Generator<'_> {
    /// Generates until `source` has no more requests, up to `batch_size` (at least one) responses at a time. The batch
    /// size changes no token.
    ///
    /// # Errors
    /// [`Error::Interrupted`] between two steps; [`Error::Data`] for a prompt that leaves no room for a response or does
    /// not start with its prefix; those of `source`.
    pub fn generate<S: RequestSource>(&self, batch_size: usize, source: &mut S) -> Result<()> {
        let mut slots = Vec::new();
        loop {
            while slots.len() < batch_size.max(1) {
                self.cancellation.check()?;
                let Some(request) = source.next()? else { break };
                let slot = self.prefill(request)?;
                if !slot.is_wanted(source) {
                    continue;
                }
                if slot.response.is_complete() {
                    slot.deliver(source)?;
                } else {
                    slots.push(slot);
                }
            }
            if slots.is_empty() {
                return Ok(());
            }
            self.cancellation.check()?;
            self.decode(&mut slots)?;
            slots.retain(|slot| slot.is_wanted(source));
            // Keeps the order of the rest: responses about one image stay side by side.
            for slot in slots.extract_if(.., |slot| slot.response.is_complete()) {
                slot.deliver(source)?;
            }
        }
    }

    /// Prefills the part of the prompt after its prefix, and samples the first token.
    fn prefill<T>(&self, request: Request<T>) -> Result<BatchSlot<T>> {
        let Request { tag, prompt, prefix, sampling, draw } = request;
        let language = &self.model.language;
        let limit = language.config().max_position_embeddings;
        if prompt.len() >= limit {
            return Err(Error::Data(format!(
                "the prompt has {} tokens with its image, which leaves no room for a response within the model's {limit}; shorten the prompt",
                prompt.len()
            )));
        }
        let max_tokens = (sampling.max_new_tokens as usize).min(limit - prompt.len());
        let capacity = prompt.len() + max_tokens;
        let (mut cache, rest) = match &prefix {
            Some(prefix) if prompt.len() > prefix.ids.len() && prompt.starts_with(&prefix.ids) => {
                (KvCache::follow(&prefix.cache, capacity), &prompt[prefix.ids.len()..])
            }
            Some(_) => {
                return Err(Error::Data(
                    "the prompt does not start with the prefix that was prefilled for its image; \
                     check that the chat template puts the image first"
                        .into(),
                ));
            }
            None => (language.new_cache(capacity), prompt.as_slice()),
        };
        let logits = on_pool(self.model.device(), || {
            let embedded = language.embed(rest)?;
            let hidden =
                language.forward_cached(&embedded, &mut cache, self.adapted(), &self.cancellation)?;
            self.logits(&hidden.narrow(0, hidden.dim(0)? - 1, 1)?)
        })?;
        let sampler = Sampler::new(sampling, draw);
        let mut response = PartialResponse { sampler, tokens: Vec::new(), max_tokens, finished: false };
        if max_tokens > 0 {
            response.push(&logits, self.eos)?;
        }
        Ok(BatchSlot { tag, cache, response })
    }

    /// Decodes one more token of each response.
    fn decode<T>(&self, slots: &mut [BatchSlot<T>]) -> Result<()> {
        let language = &self.model.language;
        let last: Vec<u32> = slots.iter().filter_map(|slot| slot.response.tokens.last().copied()).collect();
        let (mut caches, mut responses): (Vec<_>, Vec<_>) =
            slots.iter_mut().map(|slot| (&mut slot.cache, &mut slot.response)).unzip();
        on_pool(self.model.device(), || {
            let hidden = language.decode(&language.embed(&last)?, &mut caches, self.adapted())?;
            let logits = self.logits(&hidden)?;
            responses
                .par_iter_mut()
                .zip(logits.par_chunks_exact(language.config().vocab_size))
                .try_for_each(|(response, logits)| response.push(logits, self.eos))
        })
    }

    /// The logits of `[rows, hidden]`, row after row.
    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        Ok(self.model.language.logits(hidden, Mode::Decoding)?.flatten_all()?.to_vec1()?)
    }
}
