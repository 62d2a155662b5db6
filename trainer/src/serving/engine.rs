//! The thread that owns the adapters: it decodes the jobs of one model after the other, those of a model together.

use std::ops::ControlFlow;

use super::job::{Client, Event, Job};
use super::job_queue::JobQueue;
use crate::algorithm::draw::Draw;
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};
use crate::generation::{Generated, Generator, Request, RequestSource};
use crate::inference::Vlm;
use crate::model::lora::LoraAdapter;

/// Keys the random numbers of an answer, with its seed.
const PURPOSE: &str = "chat";

/// Answers the jobs of a queue.
pub(super) struct Engine<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) eos: &'a [u32],
    /// Of each model of the queue.
    pub(super) adapters: &'a [Option<LoraAdapter>],
    pub(super) queue: &'a JobQueue<Job>,
    /// Answers at a time.
    pub(super) batch_size: usize,
    /// Tokens of all KV caches at a time.
    pub(super) cached_tokens: usize,
    /// Gives up the answers that are being generated.
    pub(super) cancellation: &'a CancellationToken,
}

impl Engine<'_> {
    /// Answers until the queue is closed. A model that cannot be computed with fails the requests of its batch only.
    ///
    /// # Errors
    /// What ends the process: a lack of memory, a device that failed, a bug; [`Error::Interrupted`].
    pub(super) fn run(&self) -> Result<()> {
        while let Some(model) = self.queue.next_turn() {
            let adapter = self.adapters.get(model).and_then(Option::as_ref);
            let generator = Generator::new(&self.vlm.model, adapter, self.eos, self.cancellation.clone());
            let mut turn = Turn { engine: self, generator: &generator, room: self.cached_tokens };
            match generator.generate(self.batch_size, &mut turn) {
                Err(error @ (Error::Config(_) | Error::Data(_))) => {
                    tracing::error!(model, "gave up a batch: {error}");
                }
                other => other?,
            }
        }
        Ok(())
    }
}

/// The jobs of one model, while it is its turn.
struct Turn<'a> {
    engine: &'a Engine<'a>,
    generator: &'a Generator<'a>,
    /// Tokens that further KV caches may have.
    room: usize,
}

/// A job that is being answered.
struct ActiveJob {
    client: Client,
    cached_tokens: usize,
}

impl Turn<'_> {
    fn request(&self, cached_tokens: usize, job: Job) -> Result<Request<ActiveJob>> {
        let Job { prompt, image, sampling, seed, client } = job;
        let Engine { vlm, cancellation, .. } = self.engine;
        let prefix = match image {
            Some(pixels) => {
                let image = vlm.encode_image(&pixels, cancellation)?;
                self.generator.prefill_image(&prompt, Some(&image.features))?
            }
            None => None,
        };
        let draw = Draw::new(seed, "", PURPOSE);
        Ok(Request { tag: ActiveJob { client, cached_tokens }, prompt, prefix, sampling, draw })
    }
}

impl RequestSource for Turn<'_> {
    type Tag = ActiveJob;

    fn next(&mut self) -> Result<Option<Request<ActiveJob>>> {
        while let Some((cached_tokens, job)) = self.engine.queue.take(self.room) {
            if job.client.events.is_closed() {
                tracing::info!("a client hung up before its answer began");
                continue;
            }
            self.room -= cached_tokens;
            return self.request(cached_tokens, job).map(Some);
        }
        Ok(None)
    }

    fn on_token(&mut self, job: &ActiveJob, tokens: &[u32]) -> ControlFlow<()> {
        let Some(token) = tokens.last() else { return ControlFlow::Continue(()) };
        if job.client.events.send(Event::Token(*token)).is_ok() {
            return ControlFlow::Continue(());
        }
        tracing::info!(tokens = tokens.len(), "stopped an answer that no client waits for any more");
        self.room += job.cached_tokens;
        ControlFlow::Break(())
    }

    fn complete(&mut self, job: ActiveJob, response: Generated) -> Result<()> {
        self.room += job.cached_tokens;
        // If the client hung up there is nothing left to do for it.
        let _ = job.client.events.send(Event::Done { finished: response.finished });
        Ok(())
    }
}
