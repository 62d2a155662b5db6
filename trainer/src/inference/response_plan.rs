//! The prompts of each item, and the record that is made of the responses.

use serde_json::Value;
use stic_contract::recipe::Sampling;

use super::response_record::ResponseRecord;
use super::vlm::Vlm;
use crate::data::encode::Encoder;
use crate::data::processor::PixelValues;
use crate::error::{Error, Result};
use crate::model::lora::LoraAdapter;

/// A model with its adapter, if any, and its prompt template.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    pub vlm: &'a Vlm,
    pub adapter: Option<&'a LoraAdapter>,
    pub encoder: &'a Encoder,
}

/// An image as the model receives it, and the prompts about it.
pub struct ImageRequest {
    /// `None` for prompts without an image.
    pub pixels: Option<PixelValues>,
    /// How the image was corrupted.
    pub corruption: Option<Value>,
    pub prompts: Vec<PromptRequest>,
}

/// What decides a response besides the image.
pub struct PromptRequest {
    pub prompt: String,
    /// Keys the response's random numbers, together with the seed and the item.
    pub purpose: &'static str,
    pub sampling: Sampling,
    /// In training the response follows this many tokens, and must fit there too.
    pub prompt_tokens_in_training: usize,
}

/// How records of one kind are made from items.
pub trait ResponsePlan: Sync {
    type Item: Send;
    /// What is opened ahead for an item: its image, or one if it has any.
    type Image;
    type Record;

    /// Keys the random numbers of an item.
    fn draw_key<'i>(&self, item: &'i Self::Item) -> &'i str;

    /// The responses to generate for an item, in the order in which [`ResponsePlan::record`] receives them. Called on
    /// the prefetching thread.
    ///
    /// # Errors
    /// Any error ends writing.
    fn requests(
        &self,
        policy: &Policy<'_>,
        item: &Self::Item,
        image: &Self::Image,
    ) -> Result<Vec<ImageRequest>>;

    /// Further prompts about the same image, which depend on the item's first response. [`ResponsePlan::record`]
    /// receives their responses last.
    fn follow_ups(&self, _item: &Self::Item, _first: &ResponseRecord) -> Vec<PromptRequest> {
        Vec::new()
    }

    /// The record of an item whose responses are complete.
    ///
    /// # Errors
    /// Any error ends writing.
    fn record(
        &self,
        policy: &Policy<'_>,
        item: Self::Item,
        responses: Vec<ResponseRecord>,
    ) -> Result<Self::Record>;
}

/// A response that a record cannot do without.
///
/// # Errors
/// [`Error::Data`] naming the item.
pub fn required(response: Option<ResponseRecord>, item: &str) -> Result<ResponseRecord> {
    response.ok_or_else(|| Error::Data(format!("item {item:?} has no response; run the step again")))
}
