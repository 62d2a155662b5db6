//! One record per item: a thread opens images and plans prompts ahead, this one generates responses in a batch, and an
//! item whose responses are complete becomes a record.
//!
//! An image is prefilled when a slot of the batch is free, and its cache is freed with its last response: memory does
//! not grow with the number of items.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use super::prefetch::Prefetcher;
use super::request_queue::{PlannedItem, RequestQueue, Settings};
use super::response_plan::{Policy, ResponsePlan};
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};
use crate::generation::Generator;

/// Items that are planned before the batch has room for them; one more is being planned.
const PREFETCHED_ITEMS: usize = 1;

/// Generates responses under one policy.
#[derive(Clone, Copy)]
pub struct ResponseWriter<'a> {
    pub policy: Policy<'a>,
    /// Of every draw.
    pub seed: u64,
    /// How many responses are generated at a time; no record depends on it.
    pub batch_size: usize,
    pub cancellation: &'a CancellationToken,
}

impl ResponseWriter<'_> {
    /// Makes a record of every item and passes each to `append` as soon as it is complete, in no particular order.
    ///
    /// # Errors
    /// The first error of any part; `append` has received the records before it.
    /// [`crate::Error::Interrupted`] between two tokens.
    pub fn write<P: ResponsePlan>(
        &self,
        plan: &P,
        items: impl Iterator<Item = Result<(P::Item, P::Image)>> + Send,
        append: impl FnMut(P::Record) -> Result<()>,
    ) -> Result<()> {
        let policy = self.policy;
        let eos = policy.encoder.tokenizer.eos_ids();
        let generator = Generator::new(&policy.vlm.model, policy.adapter, eos, self.cancellation.clone());
        std::thread::scope(|scope| {
            let planned = items.map(move |item| {
                let (item, image) = item?;
                let images = plan.requests(&policy, &item, &image)?;
                Ok(PlannedItem { item, images })
            });
            let planned = Prefetcher::spawn(scope, PREFETCHED_ITEMS, planned);
            // The queue owns the prefetcher, so that an error ends the other thread before the scope waits for it.
            let settings = Settings { policy, seed: self.seed, cancellation: self.cancellation };
            let mut queue = RequestQueue::new(settings, plan, &generator, planned, append);
            generator.generate(self.batch_size, &mut queue)
        })
    }
}

/// Writes with several writers, each on a device of its own. `items_of` gives the items of a writer by its number, and `append`
/// receives the records of all of them, in no particular order.
///
/// # Errors
/// As [`ResponseWriter::write`]. The first error of a writer ends the others.
pub fn write_side_by_side<P, I>(
    writers: &[ResponseWriter<'_>],
    plan: &P,
    items_of: impl Fn(usize) -> I + Sync,
    append: impl FnMut(P::Record) -> Result<()> + Send,
) -> Result<()>
where
    P: ResponsePlan<Record: Send>,
    I: Iterator<Item = Result<(P::Item, P::Image)>> + Send,
{
    if let [only] = writers {
        return only.write(plan, items_of(0), append);
    }
    let Some(stop) = writers.first().map(|writer| writer.cancellation.child()) else { return Ok(()) };
    let append = Mutex::new(append);
    let (append, items_of, stop) = (&append, &items_of, &stop);
    let write = |number: usize, writer: &ResponseWriter<'_>| {
        let writer = ResponseWriter { cancellation: stop, ..*writer };
        let written = writer.write(plan, items_of(number), |record| {
            let mut append = append.lock().unwrap_or_else(PoisonError::into_inner);
            (*append)(record)
        });
        written.inspect_err(|_| stop.cancel())
    };
    let written: Vec<Result<()>> = std::thread::scope(|scope| {
        let started: Vec<_> = writers
            .iter()
            .enumerate()
            .map(|(number, writer)| scope.spawn(move || write(number, writer)))
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    // That the others were interrupted explains nothing.
    let (interrupted, failed): (Vec<_>, Vec<_>) =
        written.into_iter().filter_map(Result::err).partition(|error| matches!(error, Error::Interrupted));
    failed.into_iter().chain(interrupted).next().map_or(Ok(()), Err)
}
