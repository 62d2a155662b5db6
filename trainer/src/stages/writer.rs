//! Writes responses about images and records what decided them.

use candle_core::Tensor;
use serde_json::Value;
use stic_contract::recipe::Sampling;

use super::rows::ResponseRecord;
use super::vlm::{SeenImage, Vlm};
use crate::algorithm::draw::Draw;
use crate::data::encode::{Encoded, Encoder};
use crate::data::template::Turn;
use crate::error::Result;
use crate::generation::{Generator, SharedPrefix};
use crate::io::stop::Stop;
use crate::model::lora::LoraAdapter;

/// One model, one policy, one template, one way of sampling.
pub(super) struct Writer<'a> {
    vlm: &'a Vlm,
    generator: Generator<'a>,
    encoder: &'a Encoder,
    sampling: Sampling,
    seed: u64,
}

/// What decides a response beside the image.
pub(super) struct Request<'a> {
    /// The item's id.
    pub item: &'a str,
    /// What the user asks.
    pub prompt: &'a str,
    /// What sets its draws apart from those of the item's other responses.
    pub purpose: &'a str,
    /// What was done to the image.
    pub corruption: Option<Value>,
    /// The response will be learned after this many tokens, and must fit there too.
    pub tokens_before_in_training: usize,
}

/// An image that the model has read.
pub(super) struct ReadImage {
    shared: Option<SharedPrefix>,
    tokens: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        vlm: &'a Vlm,
        adapter: Option<&'a LoraAdapter>,
        encoder: &'a Encoder,
        sampling: Sampling,
        seed: u64,
        stop: Stop,
    ) -> Self {
        let generator = Generator::new(&vlm.model, adapter, encoder.tokenizer.eos_ids(), stop);
        Self { vlm, generator, encoder, sampling, seed }
    }

    /// Reads an image once for all prompts on it.
    pub(super) fn read(&self, image: &SeenImage) -> Result<ReadImage> {
        let prompt = self.encode("", image.tokens)?;
        self.read_for(&prompt, &image.features, image.tokens)
    }

    fn read_for(&self, prompt: &Encoded, features: &Tensor, tokens: usize) -> Result<ReadImage> {
        Ok(ReadImage { shared: self.generator.read_image(&prompt.ids, Some(features))?, tokens })
    }

    fn encode(&self, text: &str, image_tokens: usize) -> Result<Encoded> {
        self.encoder.encode_prompt(&[Turn::user_with_image(text)], Some(image_tokens))
    }

    /// A response to `request` about `image`.
    pub(super) fn respond(&self, image: &ReadImage, request: Request<'_>) -> Result<ResponseRecord> {
        let prompt = self.encode(request.prompt, image.tokens)?;
        let limit = self.vlm.checked.max_tokens();
        let room = limit.saturating_sub(prompt.ids.len().max(request.tokens_before_in_training));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let sampling = Sampling { max_new_tokens: self.sampling.max_new_tokens.min(room), ..self.sampling };
        let mut draw = Draw::new(self.seed, request.item, request.purpose);
        let response = self.generator.respond(&prompt.ids, image.shared.as_ref(), &sampling, &mut draw)?;
        Ok(ResponseRecord {
            prompt: request.prompt.to_owned(),
            corruption: request.corruption,
            seed: self.seed,
            purpose: request.purpose.to_owned(),
            text: self.encoder.tokenizer.decode(&response.tokens, true)?.trim().to_owned(),
            tokens: response.tokens,
            finished: response.finished,
        })
    }
}

/// How many tokens a prompt with an image of `image_tokens` is under `template`.
pub(super) fn prompt_tokens(encoder: &Encoder, text: &str, image_tokens: Option<usize>) -> Result<usize> {
    let turn = if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
    Ok(encoder.encode_prompt(&[turn], image_tokens)?.ids.len())
}

/// One of `prompts`, drawn for the item.
pub(super) fn draw_prompt<'p>(prompts: &'p [String], seed: u64, item: &str, purpose: &str) -> &'p str {
    if prompts.is_empty() {
        return "";
    }
    let index = Draw::new(seed, item, purpose).below(prompts.len() as u64);
    prompts.get(index as usize).map_or("", String::as_str)
}
