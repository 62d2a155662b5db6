//! Drawing an item's prompt, and its length in tokens.

use crate::algorithm::draw::Draw;
use crate::data::encode::Encoder;
use crate::data::template::Turn;
use crate::error::Result;

/// The tokens of a prompt, those of its image included.
pub(super) fn prompt_tokens(encoder: &Encoder, text: &str, image_tokens: Option<usize>) -> Result<usize> {
    let turn = if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
    Ok(encoder.encode_prompt(&[turn], image_tokens)?.ids.len())
}

/// One of `prompts`, drawn for the item.
pub(super) fn draw_prompt<'p>(prompts: &'p [String], seed: u64, item: &str, purpose: &str) -> &'p str {
    Draw::new(seed, item, purpose).choose(prompts).map_or("", String::as_str)
}
