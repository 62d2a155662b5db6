//! The queue between the planned items and the batch: images to prefill, prompts to generate from, and items that wait
//! for responses.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde_json::Value;
use stic_contract::recipe::Sampling;

use super::prefetch::Prefetcher;
use super::response_plan::{ImageRequest, Policy, PromptRequest, ResponsePlan};
use super::response_record::ResponseRecord;
use crate::algorithm::draw::Draw;
use crate::cancellation::CancellationToken;
use crate::data::template::Turn;
use crate::error::Result;
use crate::generation::{Generated, Generator, Request, RequestSource, SharedPrefix};

/// An item and its prompts.
pub(super) struct PlannedItem<I> {
    pub(super) item: I,
    pub(super) images: Vec<ImageRequest>,
}

/// An item of which responses are missing. Each of them holds a reference: the last one completes the item.
struct PendingItem<I> {
    item: I,
    /// How many responses were planned, follow-ups not counted.
    planned: usize,
    /// By position among the item's responses.
    responses: RefCell<BTreeMap<usize, ResponseRecord>>,
}

/// An image that is not prefilled yet.
struct PendingImage<I> {
    item: Rc<PendingItem<I>>,
    /// The position of its first response.
    first: usize,
    request: ImageRequest,
}

/// An image that is prefilled, or none.
#[derive(Clone)]
struct PrefilledImage {
    prefix: Option<SharedPrefix>,
    /// `None` without an image.
    tokens: Option<usize>,
    corruption: Option<Value>,
}

/// A response to generate, or being generated.
pub(super) struct PendingResponse<I> {
    item: Rc<PendingItem<I>>,
    /// Among the item's responses.
    position: usize,
    prompt: PromptRequest,
    image: PrefilledImage,
}

/// How the queue generates.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) policy: Policy<'a>,
    pub(super) seed: u64,
    pub(super) cancellation: &'a CancellationToken,
}

pub(super) struct RequestQueue<'a, P: ResponsePlan, F> {
    settings: Settings<'a>,
    plan: &'a P,
    generator: &'a Generator<'a>,
    planned: Prefetcher<PlannedItem<P::Item>>,
    images: VecDeque<PendingImage<P::Item>>,
    responses: VecDeque<PendingResponse<P::Item>>,
    append: F,
}

impl<'a, P: ResponsePlan, F: FnMut(P::Record) -> Result<()>> RequestQueue<'a, P, F> {
    pub(super) fn new(
        settings: Settings<'a>,
        plan: &'a P,
        generator: &'a Generator<'a>,
        planned: Prefetcher<PlannedItem<P::Item>>,
        append: F,
    ) -> Self {
        let (images, responses) = (VecDeque::new(), VecDeque::new());
        Self { settings, plan, generator, planned, images, responses, append }
    }

    fn push_item(&mut self, PlannedItem { item, images }: PlannedItem<P::Item>) -> Result<()> {
        let planned = images.iter().map(|image| image.prompts.len()).sum();
        let item = Rc::new(PendingItem { item, planned, responses: RefCell::default() });
        let mut first = 0;
        for request in images {
            let next = first + request.prompts.len();
            self.images.push_back(PendingImage { item: Rc::clone(&item), first, request });
            first = next;
        }
        // An item without prompts is complete already.
        self.complete_item(item)
    }

    fn prefill(&mut self, PendingImage { item, first, request }: PendingImage<P::Item>) -> Result<()> {
        let Settings { policy, cancellation, .. } = self.settings;
        let (prefix, tokens) = match &request.pixels {
            Some(pixels) => {
                let image = policy.vlm.encode_image(pixels, cancellation)?;
                let prompt = self.encode("", Some(image.tokens))?;
                (self.generator.prefill_image(&prompt, Some(&image.features))?, Some(image.tokens))
            }
            None => (None, None),
        };
        let image = PrefilledImage { prefix, tokens, corruption: request.corruption };
        self.push_responses(&item, first, request.prompts, &image);
        Ok(())
    }

    fn push_responses(
        &mut self,
        item: &Rc<PendingItem<P::Item>>,
        first: usize,
        prompts: Vec<PromptRequest>,
        image: &PrefilledImage,
    ) {
        let responses = (first..).zip(prompts).map(|(position, prompt)| PendingResponse {
            item: Rc::clone(item),
            position,
            prompt,
            image: image.clone(),
        });
        self.responses.extend(responses);
    }

    fn encode(&self, text: &str, image_tokens: Option<usize>) -> Result<Vec<u32>> {
        let turn = if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
        Ok(self.settings.policy.encoder.encode_prompt(&[turn], image_tokens)?.ids)
    }

    fn request(&self, response: PendingResponse<P::Item>) -> Result<Request<PendingResponse<P::Item>>> {
        let PendingResponse { item, prompt, image, .. } = &response;
        let ids = self.encode(&prompt.prompt, image.tokens)?;
        let limit = self.settings.policy.vlm.files.max_tokens();
        let room = limit.saturating_sub(ids.len().max(prompt.prompt_tokens_in_training));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let max_new_tokens = prompt.sampling.max_new_tokens.min(room);
        let sampling = Sampling { max_new_tokens, ..prompt.sampling };
        let draw = Draw::new(self.settings.seed, self.plan.draw_key(&item.item), prompt.purpose);
        Ok(Request { prompt: ids, prefix: image.prefix.clone(), sampling, draw, tag: response })
    }

    /// Appends the record of an item that no pending response refers to any more.
    fn complete_item(&mut self, item: Rc<PendingItem<P::Item>>) -> Result<()> {
        let Some(PendingItem { item, responses, .. }) = Rc::into_inner(item) else { return Ok(()) };
        let responses = responses.into_inner().into_values().collect();
        (self.append)(self.plan.record(&self.settings.policy, item, responses)?)
    }
}

impl<P: ResponsePlan, F: FnMut(P::Record) -> Result<()>> RequestSource for RequestQueue<'_, P, F> {
    type Tag = PendingResponse<P::Item>;

    fn next(&mut self) -> Result<Option<Request<Self::Tag>>> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return self.request(response).map(Some);
            }
            if let Some(image) = self.images.pop_front() {
                self.prefill(image)?;
                continue;
            }
            match self.planned.next() {
                Some(item) => self.push_item(item?)?,
                None => return Ok(None),
            }
        }
    }

    fn complete(&mut self, tag: Self::Tag, response: Generated) -> Result<()> {
        let PendingResponse { item, position, prompt, image } = tag;
        let text = self.settings.policy.encoder.tokenizer.decode(&response.tokens, true)?;
        let record = ResponseRecord {
            prompt: prompt.prompt,
            corruption: image.corruption.clone(),
            seed: self.settings.seed,
            purpose: prompt.purpose.to_owned(),
            text: text.trim().to_owned(),
            tokens: response.tokens,
            finished: response.finished,
        };
        if position == 0 {
            let prompts = self.plan.follow_ups(&item.item, &record);
            self.push_responses(&item, item.planned, prompts, &image);
        }
        item.responses.borrow_mut().insert(position, record);
        self.complete_item(item)
    }
}
