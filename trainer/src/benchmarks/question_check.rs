//! Whether a model can be asked a question, and what the largest question takes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};
use stic_contract::Digest;
use stic_contract::evaluation::{AskingRecipe, Prompting};
use stic_contract::prompts::INFUSION;
use stic_evaluation::questions::LoadedImage;
use stic_evaluation::registry::Question;

use crate::algorithm::infusion::infuse;
use crate::data::encode::Encoder;
use crate::data::image::{self, ImageLimits};
use crate::data::template::Turn;
use crate::inference::ModelFiles;

/// The largest of each among all questions, and descriptions.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LargestQuestion {
    /// Tokens of a prompt, without its image.
    pub prompt_tokens: usize,
    /// Tokens of a response.
    pub max_new_tokens: u32,
}

impl LargestQuestion {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.max(other.prompt_tokens),
            max_new_tokens: self.max_new_tokens.max(other.max_new_tokens),
        }
    }
}

/// Checks questions while they are read: what a model cannot be asked is known before hours of answering, not after.
pub struct QuestionCheck<'a> {
    /// How messages call the model.
    model: String,
    files: &'a ModelFiles,
    encoder: &'a Encoder,
    /// Tokens of the description that goes into a prompt; `None` if every question is asked directly.
    description_tokens: Option<u32>,
    /// Of the questions that can be asked.
    pub largest: LargestQuestion,
    /// The tokens of each image, or why it cannot be used.
    images: HashMap<Digest, Result<usize, String>>,
}

impl<'a> QuestionCheck<'a> {
    #[must_use]
    pub fn new(model: String, files: &'a ModelFiles, encoder: &'a Encoder, recipe: &AskingRecipe) -> Self {
        let describes = recipe.prompting.iter().any(|prompting| *prompting != Prompting::Direct);
        let description_tokens = describes.then_some(recipe.max_description_tokens);
        let largest =
            LargestQuestion { prompt_tokens: 0, max_new_tokens: description_tokens.unwrap_or_default() };
        Self { model, files, encoder, description_tokens, largest, images: HashMap::new() }
    }

    /// # Errors
    /// Why the question cannot be asked, and how to fix it.
    pub fn check(&mut self, question: &Question, image: Option<&LoadedImage>) -> Result<(), String> {
        let image_tokens = image.map(|image| self.image_tokens(image)).transpose()?;
        let mut tokens = self.prompt_tokens(&question.prompt, image_tokens)?;
        if let (Some(description), Some(_)) = (self.description_tokens, image_tokens) {
            let infused = infuse(INFUSION, "", &question.prompt);
            tokens = tokens.max(self.prompt_tokens(&infused, image_tokens)? + description as usize);
        }
        let (limit, of_image) = (self.files.max_tokens(), image_tokens.unwrap_or(0));
        if tokens >= limit {
            return Err(format!(
                "its question needs {tokens} tokens, {of_image} of them for the image, but {} is limited to {limit}; shorten it or remove the row",
                self.model
            ));
        }
        let prompt_tokens = tokens - of_image;
        let max_new_tokens = question.max_new_tokens;
        self.largest = self.largest.max(LargestQuestion { prompt_tokens, max_new_tokens });
        Ok(())
    }

    fn image_tokens(&mut self, image: &LoadedImage) -> Result<usize, String> {
        let known = match self.images.entry(image.digest.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let decoded = image::decode(&image.bytes, &ImageLimits::default());
                let tokens =
                    decoded.map(|image| self.files.processor.image_tokens((image.height(), image.width())));
                new.insert(tokens.map_err(|error| format!("its image cannot be used: {error}")))
            }
        };
        known.clone()
    }

    fn prompt_tokens(&self, text: &str, image_tokens: Option<usize>) -> Result<usize, String> {
        let turn = if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
        let prompt = self.encoder.encode_prompt(&[turn], image_tokens);
        prompt.map(|prompt| prompt.ids.len()).map_err(|error| error.to_string())
    }
}
