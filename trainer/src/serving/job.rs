//! A request that waits for the engine, and what the engine tells the client about it.

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::data::processor::PixelValues;
use stic_contract::recipe::Sampling;

/// What happens to a job. If the channel closes before the job is done, the engine gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Token(u32),
    Done {
        /// Whether the last token is an end of sequence.
        finished: bool,
    },
}

/// Where a job's tokens go. Dropping it gives the job's place in the queue to another request.
#[derive(Debug)]
pub(super) struct Client {
    /// Closed once the client has hung up. It holds no more events than the answer has tokens.
    pub(super) events: UnboundedSender<Event>,
    pub(super) _place: OwnedSemaphorePermit,
}

/// A request whose prompt and image are ready for the model.
pub(super) struct Job {
    /// The image and its place are part of the prompt's tokens.
    pub(super) prompt: Vec<u32>,
    pub(super) image: Option<PixelValues>,
    pub(super) sampling: Sampling,
    pub(super) seed: u64,
    pub(super) client: Client,
}

impl Job {
    /// The tokens of its KV cache.
    pub(super) fn cached_tokens(&self) -> usize {
        self.prompt.len() + self.sampling.max_new_tokens as usize
    }
}
