//! Where rows are written: images are opened and questions planned on one thread, a batch of responses is written on
//! another, and an item whose responses are all there becomes a row.
//!
//! An image is read by the model when a place in the batch is free, and what it takes goes with its last response: memory
//! does not grow with the number of items.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::Value;
use stic_contract::recipe::Sampling;

use super::rows::ResponseRecord;
use super::vlm::Vlm;
use crate::algorithm::draw::Draw;
use crate::data::encode::Encoder;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
use crate::error::{Error, Result};
use crate::generation::{Generated, Generator, Request, Requests, SharedPrefix};
use crate::io::stop::Stop;
use crate::model::lora::LoraAdapter;

/// Items that are planned before the batch has room for them; one more is being planned.
const AHEAD: usize = 1;

/// One model, one policy, one template.
pub(crate) struct Desk<'a> {
    pub vlm: &'a Vlm,
    pub adapter: Option<&'a LoraAdapter>,
    pub encoder: &'a Encoder,
    /// Of every draw.
    pub seed: u64,
    /// How many responses are written at once; no row depends on it.
    pub at_once: usize,
    pub stop: &'a Stop,
}

/// An image as the model is to see it, and what it is asked about it.
pub(crate) struct Sight {
    pub pixels: PixelValues,
    /// What was done to the image.
    pub corruption: Option<Value>,
    pub asks: Vec<Ask>,
}

/// What decides a response beside the image.
pub(crate) struct Ask {
    /// What the user asks.
    pub prompt: String,
    /// What sets its draws apart from those of the item's other responses.
    pub purpose: &'static str,
    pub sampling: Sampling,
    /// The response will be learned after this many tokens, and must fit there too.
    pub tokens_before_in_training: usize,
}

/// How rows of one kind are made.
pub(crate) trait Maker: Sync {
    /// What a row is made of.
    type Item: Send;
    /// A row.
    type Row;

    /// The key of an item's draws.
    fn key<'i>(&self, item: &'i Self::Item) -> &'i str;

    /// What the model has to write about an item, in the order in which [`Maker::row`] gets it. It runs ahead, beside the
    /// writing of items before.
    fn plan(&self, desk: &Desk<'_>, item: &Self::Item, image: &::image::RgbImage) -> Result<Vec<Sight>>;

    /// What the first of its responses leads to, about the same image; [`Maker::row`] gets those last.
    fn then(&self, _item: &Self::Item, _first: &ResponseRecord) -> Vec<Ask> {
        Vec::new()
    }

    /// The row of an item.
    fn row(&self, desk: &Desk<'_>, item: Self::Item, written: Vec<ResponseRecord>) -> Result<Self::Row>;
}

impl Desk<'_> {
    /// Has a row made of every item and hands each to `take` as soon as it is whole, in no promised order.
    ///
    /// # Errors
    /// The first of any part; rows before it were taken. [`Error::Interrupted`] between two tokens.
    pub(crate) fn write<M: Maker>(
        &self,
        maker: &M,
        items: impl Iterator<Item = Result<(M::Item, ::image::RgbImage)>> + Send,
        take: impl FnMut(M::Row) -> Result<()>,
    ) -> Result<()> {
        let generator = Generator::new(
            &self.vlm.model,
            self.adapter,
            self.encoder.tokenizer.eos_ids(),
            self.stop.clone(),
        );
        let (sender, planned) = sync_channel(AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for item in items {
                    let planned = item.and_then(|(item, image)| {
                        Ok(Planned { sights: maker.plan(self, &item, &image)?, item })
                    });
                    let failed = planned.is_err();
                    if sender.send(planned).is_err() || failed {
                        return;
                    }
                }
            });
            // The receiver goes with it, and so the other thread ends.
            let mut tray = Tray {
                desk: self,
                maker,
                generator: &generator,
                planned,
                unread: VecDeque::new(),
                asked: VecDeque::new(),
                take,
            };
            generator.write(self.at_once, &mut tray)
        })
    }

    fn prompt(&self, text: &str, image_tokens: usize) -> Result<Vec<u32>> {
        Ok(self.encoder.encode_prompt(&[Turn::user_with_image(text)], Some(image_tokens))?.ids)
    }
}

/// The response that a row cannot do without.
///
/// # Errors
/// [`Error::Data`] naming the item.
pub(crate) fn required(response: Option<ResponseRecord>, item: &str) -> Result<ResponseRecord> {
    response
        .ok_or_else(|| Error::Data(format!("item {item:?} was left without a response; run the step again")))
}

/// An item and what is to be written about it.
struct Planned<I> {
    item: I,
    sights: Vec<Sight>,
}

/// An item of which responses are missing. Whoever asks for one of them holds it: the last one closes it.
struct Open<I> {
    item: I,
    /// How many responses were planned.
    planned: usize,
    /// By the place in which they were asked for.
    written: RefCell<BTreeMap<usize, ResponseRecord>>,
}

/// An image that the model has not read yet.
struct Unread<I> {
    open: Rc<Open<I>>,
    /// The place of the first response.
    first: usize,
    sight: Sight,
}

/// An image that the model has read.
#[derive(Clone)]
struct Read {
    prefix: Option<SharedPrefix>,
    tokens: usize,
    corruption: Option<Value>,
}

/// A response that is waited for.
struct Ticket<I> {
    open: Rc<Open<I>>,
    /// Among the item's responses.
    place: usize,
    ask: Ask,
    image: Read,
}

/// What lies between the planned items and the batch.
struct Tray<'a, M: Maker, F> {
    desk: &'a Desk<'a>,
    maker: &'a M,
    generator: &'a Generator<'a>,
    planned: Receiver<Result<Planned<M::Item>>>,
    unread: VecDeque<Unread<M::Item>>,
    asked: VecDeque<Ticket<M::Item>>,
    take: F,
}

impl<M: Maker, F: FnMut(M::Row) -> Result<()>> Tray<'_, M, F> {
    fn open(&mut self, Planned { item, sights }: Planned<M::Item>) -> Result<()> {
        let planned = sights.iter().map(|sight| sight.asks.len()).sum();
        let open = Rc::new(Open { item, planned, written: RefCell::default() });
        let mut first = 0;
        for sight in sights {
            let after = first + sight.asks.len();
            self.unread.push_back(Unread { open: Rc::clone(&open), first, sight });
            first = after;
        }
        self.close(open)
    }

    fn read(&mut self, Unread { open, first, sight }: Unread<M::Item>) -> Result<()> {
        let seen = self.desk.vlm.see_pixels(&sight.pixels, self.desk.stop)?;
        let prompt = self.desk.prompt("", seen.tokens)?;
        let prefix = self.generator.read_image(&prompt, Some(&seen.features))?;
        let image = Read { prefix, tokens: seen.tokens, corruption: sight.corruption };
        self.ask(&open, first, sight.asks, &image);
        Ok(())
    }

    fn ask(&mut self, open: &Rc<Open<M::Item>>, first: usize, asks: Vec<Ask>, image: &Read) {
        let tickets = (first..).zip(asks).map(|(place, ask)| Ticket {
            open: Rc::clone(open),
            place,
            ask,
            image: image.clone(),
        });
        self.asked.extend(tickets);
    }

    fn request(&self, ticket: Ticket<M::Item>) -> Result<Request<Ticket<M::Item>>> {
        let Ticket { open, ask, image, .. } = &ticket;
        let prompt = self.desk.prompt(&ask.prompt, image.tokens)?;
        let limit = self.desk.vlm.checked.max_tokens();
        let room = limit.saturating_sub(prompt.len().max(ask.tokens_before_in_training));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let sampling = Sampling { max_new_tokens: ask.sampling.max_new_tokens.min(room), ..ask.sampling };
        let draw = Draw::new(self.desk.seed, self.maker.key(&open.item), ask.purpose);
        Ok(Request { prompt, prefix: image.prefix.clone(), sampling, draw, ticket })
    }

    /// Hands in the row of an item that nobody else holds.
    fn close(&mut self, open: Rc<Open<M::Item>>) -> Result<()> {
        let Some(Open { item, written, .. }) = Rc::into_inner(open) else { return Ok(()) };
        let written = written.into_inner().into_values().collect();
        (self.take)(self.maker.row(self.desk, item, written)?)
    }
}

impl<M: Maker, F: FnMut(M::Row) -> Result<()>> Requests for Tray<'_, M, F> {
    type Ticket = Ticket<M::Item>;

    fn next(&mut self) -> Result<Option<Request<Self::Ticket>>> {
        loop {
            if let Some(ticket) = self.asked.pop_front() {
                return self.request(ticket).map(Some);
            }
            if let Some(unread) = self.unread.pop_front() {
                self.read(unread)?;
                continue;
            }
            match self.planned.recv() {
                Ok(planned) => self.open(planned?)?,
                // Every item was planned.
                Err(_) => return Ok(None),
            }
        }
    }

    fn answered(&mut self, ticket: Self::Ticket, response: Generated) -> Result<()> {
        let Ticket { open, place, ask, image } = ticket;
        let record = ResponseRecord {
            prompt: ask.prompt,
            corruption: image.corruption.clone(),
            seed: self.desk.seed,
            purpose: ask.purpose.to_owned(),
            text: self.desk.encoder.tokenizer.decode(&response.tokens, true)?.trim().to_owned(),
            tokens: response.tokens,
            finished: response.finished,
        };
        if place == 0 {
            let asks = self.maker.then(&open.item, &record);
            self.ask(&open, open.planned, asks, &image);
        }
        open.written.borrow_mut().insert(place, record);
        self.close(open)
    }
}
