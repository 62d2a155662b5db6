//! Whether a model can be asked a question, and what the largest question takes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use stic_contract::Digest;
use stic_contract::prompts::INFUSION;
use stic_evaluation::questions::LoadedImage;
use stic_evaluation::registry::Question;

use crate::algorithm::infusion::infuse;
use crate::data::encode::Encoder;
use crate::data::image::{self, ImageLimits};
use crate::data::template::Turn;
use crate::inference::ModelFiles;

/// The largest of each among all questions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LargestQuestion {
    /// Tokens of a prompt, without its image.
    pub(super) prompt_tokens: usize,
    pub(super) max_new_tokens: u32,
}

/// Checks questions while they are read: what a model cannot be asked is known before hours of answering, not after.
pub(super) struct QuestionCheck<'a> {
    pub(super) files: &'a ModelFiles,
    pub(super) encoder: &'a Encoder,
    /// Tokens of the description that goes into a prompt; `None` if every question is asked directly.
    pub(super) description_tokens: Option<u32>,
    pub(super) largest: LargestQuestion,
    /// The tokens of each image, or why it cannot be used.
    pub(super) images: HashMap<Digest, Result<usize, String>>,
}

impl QuestionCheck<'_> {
    /// # Errors
    /// Why the question cannot be asked, and how to fix it.
    pub(super) fn check(&mut self, question: &Question, image: Option<&LoadedImage>) -> Result<(), String> {
        let image_tokens = image.map(|image| self.image_tokens(image)).transpose()?;
        let mut tokens = self.prompt_tokens(&question.prompt, image_tokens)?;
        if let (Some(description), Some(_)) = (self.description_tokens, image_tokens) {
            let infused = infuse(INFUSION, "", &question.prompt);
            tokens = tokens.max(self.prompt_tokens(&infused, image_tokens)? + description as usize);
        }
        let (limit, of_image) = (self.files.max_tokens(), image_tokens.unwrap_or(0));
        if tokens >= limit {
            return Err(format!(
                "its question needs {tokens} tokens, {of_image} of them for the image, but the model is limited to {limit}; shorten it or remove the row"
            ));
        }
        let LargestQuestion { prompt_tokens, max_new_tokens } = &mut self.largest;
        *prompt_tokens = (*prompt_tokens).max(tokens - of_image);
        *max_new_tokens = (*max_new_tokens).max(question.max_new_tokens);
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
