//! Continuous batching: a step writes one token of every response at hand, and where one ends the next begins.

use candle_core::Tensor;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use stic_contract::recipe::Sampling;

use super::{Generated, Generator, SharedPrefix};
use crate::algorithm::draw::Draw;
use crate::algorithm::sampling::next_token;
use crate::error::{Error, Result};
use crate::kernels::pool::on_pool;
use crate::model::Mode;
use crate::model::language::KvCache;

/// A response that is to be written.
#[derive(Debug)]
pub struct Request<T> {
    /// What comes back with it.
    pub ticket: T,
    /// The prompt's token ids, those of its image included.
    pub prompt: Vec<u32>,
    /// What the prompt starts with; `None` for a prompt without an image.
    pub prefix: Option<SharedPrefix>,
    /// How tokens are sampled, and how many at most.
    pub sampling: Sampling,
    /// The random numbers of this response alone.
    pub draw: Draw,
}

/// Where requests come from, and where responses go.
pub trait Requests {
    /// Tells the requests apart.
    type Ticket;

    /// The next request, made when there is room for it; `None` where there is none now. It is asked again after each
    /// response, which may lead to further requests.
    ///
    /// # Errors
    /// Any; it ends the writing.
    fn next(&mut self) -> Result<Option<Request<Self::Ticket>>>;

    /// Takes the response to the request with this ticket.
    ///
    /// # Errors
    /// Any; it ends the writing.
    fn answered(&mut self, ticket: Self::Ticket, response: Generated) -> Result<()>;
}

/// A place of the batch.
struct Slot<T> {
    ticket: T,
    cache: KvCache,
    response: Writing,
}

/// A response that is being written.
struct Writing {
    sampling: Sampling,
    draw: Draw,
    tokens: Vec<u32>,
    /// The most tokens it can have.
    room: usize,
    finished: bool,
}

impl Writing {
    fn push(&mut self, logits: &[f32], eos: &[u32]) {
        let token = next_token(logits, &self.sampling, &mut self.draw);
        self.tokens.push(token);
        self.finished = eos.contains(&token);
    }

    const fn ended(&self) -> bool {
        self.finished || self.tokens.len() >= self.room
    }
}

impl<T> Slot<T> {
    fn hand_in(self, requests: &mut impl Requests<Ticket = T>) -> Result<()> {
        let Writing { tokens, finished, .. } = self.response;
        requests.answered(self.ticket, Generated { tokens, finished })
    }
}

impl Generator<'_> {
    /// Writes until there is no request left, `at_once` responses at a time (at least one). A response has the same tokens
    /// for every number.
    ///
    /// # Errors
    /// [`Error::Interrupted`] between two steps; [`Error::Data`] for a prompt that leaves no room for a response or does
    /// not start with its prefix; those of `requests`.
    pub fn write<R: Requests>(&self, at_once: usize, requests: &mut R) -> Result<()> {
        let mut slots = Vec::new();
        loop {
            while slots.len() < at_once.max(1) {
                self.stop.check()?;
                let Some(request) = requests.next()? else { break };
                let slot = self.begin(request)?;
                if slot.response.ended() {
                    slot.hand_in(requests)?;
                } else {
                    slots.push(slot);
                }
            }
            if slots.is_empty() {
                return Ok(());
            }
            self.stop.check()?;
            self.step(&mut slots)?;
            // In their order: responses on one image stay side by side.
            for slot in slots.extract_if(.., |slot| slot.response.ended()) {
                slot.hand_in(requests)?;
            }
        }
    }

    /// Reads what of the prompt follows its prefix, and writes the first token.
    fn begin<T>(&self, request: Request<T>) -> Result<Slot<T>> {
        let Request { ticket, prompt, prefix, sampling, draw } = request;
        let language = &self.model.language;
        let limit = language.config().max_position_embeddings;
        if prompt.len() >= limit {
            return Err(Error::Data(format!(
                "the prompt has {} tokens with its image and leaves no room for a response in the model's {limit}; shorten the prompt",
                prompt.len()
            )));
        }
        let room = (sampling.max_new_tokens as usize).min(limit - prompt.len());
        let capacity = prompt.len() + room;
        let (mut cache, rest) = match &prefix {
            Some(prefix) if prompt.len() > prefix.ids.len() && prompt.starts_with(&prefix.ids) => {
                (KvCache::follow(&prefix.cache, capacity), &prompt[prefix.ids.len()..])
            }
            Some(_) => {
                return Err(Error::Data("the prompt does not start as the image's other prompts do".into()));
            }
            None => (language.new_cache(capacity), prompt.as_slice()),
        };
        let logits = on_pool(self.model.device(), || {
            let hidden =
                language.forward_cached(&language.embed(rest)?, &mut cache, self.adapted(), &self.stop)?;
            self.logits(&hidden.narrow(0, hidden.dim(0)? - 1, 1)?)
        })?;
        let mut response = Writing { sampling, draw, tokens: Vec::new(), room, finished: false };
        if room > 0 {
            response.push(&logits, self.eos);
        }
        Ok(Slot { ticket, cache, response })
    }

    /// Writes one more token of each.
    fn step<T>(&self, slots: &mut [Slot<T>]) -> Result<()> {
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
                .for_each(|(response, logits)| response.push(logits, self.eos));
            Ok(())
        })
    }

    /// The logits of `[rows, hidden]`, row after row.
    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        Ok(self.model.language.logits(hidden, Mode::Decoding)?.flatten_all()?.to_vec1()?)
    }
}
