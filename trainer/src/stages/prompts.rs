//! The prompts of a recipe: drawing that of an item, and their lengths in tokens.

use stic_contract::config::DataRecipe;
use stic_contract::recipe::ChatTemplate;

use crate::algorithm::draw::Draw;
use crate::data::encode::Encoder;
use crate::data::template::Turn;
use crate::error::Result;

/// The tokens of a prompt, those of its image included.
pub(super) fn prompt_tokens(encoder: &Encoder, text: &str, image_tokens: Option<usize>) -> Result<usize> {
    let turn = if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
    Ok(encoder.encode_prompt(&[turn], image_tokens)?.ids.len())
}

/// The prompts under which responses are generated, and their template.
pub(super) fn generation_prompts(recipe: &DataRecipe) -> (ChatTemplate, Vec<&str>) {
    let (template, prompts): (_, Vec<&String>) = match recipe {
        DataRecipe::Preferences(recipe) => {
            let prompts = recipe.caption_prompts.iter().chain(&recipe.hallucination_prompts);
            (recipe.chat_template, prompts.chain([&recipe.well_curated_prompt]).collect())
        }
        DataRecipe::Descriptions(recipe) => (recipe.chat_template, recipe.prompts.iter().collect()),
    };
    (template, prompts.into_iter().map(String::as_str).collect())
}

/// Tokens of the longest of `prompts`, without its image.
pub(super) fn longest_prompt(encoder: &Encoder, prompts: &[&str]) -> Result<usize> {
    let mut longest = 0;
    for prompt in prompts {
        // One image token stands for the image, and is subtracted again.
        longest = longest.max(prompt_tokens(encoder, prompt, Some(1))? - 1);
    }
    Ok(longest)
}

/// One of `prompts`, drawn for the item.
pub(super) fn draw_prompt<'p>(prompts: &'p [String], seed: u64, item: &str, purpose: &str) -> &'p str {
    Draw::new(seed, item, purpose).choose(prompts).map_or("", String::as_str)
}
