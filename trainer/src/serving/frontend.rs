//! From a body to a job: everything that can be refused is refused here, before the request waits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::api_error::ApiError;
use super::chat_request::{ChatRequest, Delivery};
use super::conversation::Conversation;
use crate::data::encode::Encoder;
use crate::data::image::{self, ImageLimits};
use crate::data::processor::PixelValues;
use crate::error::Error;
use crate::inference::Vlm;
use stic_contract::recipe::Sampling;

/// Always the base model, whatever its folder is called.
const BASE: &str = "base";

/// What requests are checked against.
pub(super) struct Frontend {
    pub(super) vlm: Arc<Vlm>,
    pub(super) encoder: Arc<Encoder>,
    /// The base model's first.
    pub(super) names: Vec<String>,
    /// The most tokens of prompt and answer.
    pub(super) max_tokens: usize,
}

/// A request that can be answered.
pub(super) struct Question {
    /// Its position among the names.
    pub(super) model: usize,
    pub(super) prompt: Vec<u32>,
    pub(super) image: Option<PixelValues>,
    pub(super) sampling: Sampling,
    pub(super) seed: u64,
    pub(super) stops: Vec<String>,
    pub(super) delivery: Delivery,
}

impl Frontend {
    /// Reads a body, decodes its image and encodes its prompt.
    pub(super) fn read(&self, body: &[u8]) -> Result<Question, ApiError> {
        let mut request = ChatRequest::parse(body)?;
        let model = self.model(&request.model)?;
        let (delivery, stops) = (request.delivery(), request.stops()?);
        let seed = request.seed().unwrap_or_else(|| RandomState::new().hash_one(BASE));
        let Conversation { turns, image } = Conversation::of(&mut request)?;
        let image = image.map(|(place, bytes)| self.preprocess(&place, bytes)).transpose()?;
        let image_tokens = image.as_ref().map(|image| self.vlm.files.processor.image_tokens(image.original));
        let prompt = self
            .encoder
            .encode_prompt(&turns, image_tokens)
            .map_err(|error| ApiError::invalid("messages", format!("messages: {error}")))?
            .ids;
        let room = self.max_tokens.saturating_sub(prompt.len());
        if room == 0 {
            return Err(ApiError::too_long(prompt.len(), self.max_tokens));
        }
        let sampling = request.sampling(room)?;
        Ok(Question { model, prompt, image, sampling, seed, stops, delivery })
    }

    fn model(&self, name: &str) -> Result<usize, ApiError> {
        let named = self.names.iter().position(|known| known == name);
        named.or((name == BASE).then_some(0)).ok_or_else(|| ApiError::unknown_model(name, &self.names))
    }

    fn preprocess(&self, place: &str, bytes: Vec<u8>) -> Result<PixelValues, ApiError> {
        let unusable = |reason: String| ApiError::invalid(place, format!("{place}: {reason}"));
        let image = image::decode(&bytes, &ImageLimits::default()).map_err(|e| unusable(e.to_string()))?;
        drop(bytes);
        self.vlm.files.processor.preprocess(&image).map_err(|error| match error {
            Error::Data(reason) => unusable(reason),
            other => ApiError::failed(other.to_string()),
        })
    }
}
