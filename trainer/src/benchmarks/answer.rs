//! An answer, and what identifies it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stic_contract::Digest;
use stic_contract::evaluation::{AskingRecipe, Prompting};
use stic_evaluation::registry::Question;

use crate::io::journal::Row;

/// A row of a journal of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    /// See [`answer_id`].
    pub id: String,
    pub answer: String,
    /// The description that it was given after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it ended by itself, not at the limit of tokens.
    pub finished: bool,
}

impl Row for Answer {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The id of an answer. It contains the digest of all that is asked, so that a question whose text or image has changed under
/// its old name is asked again.
#[must_use]
pub fn answer_id(question: &Question, prompting: Prompting) -> String {
    let Question { benchmark, id, image, prompt, max_new_tokens, .. } = question;
    let asked = Digest::of_json(&json!([image, prompt, max_new_tokens, prompting]));
    format!("{benchmark}/{id} {}", asked.short(16))
}

/// All that decides an answer besides what is asked.
#[must_use]
pub fn answers_key(model: &Digest, adapter: Option<&Digest>, recipe: &AskingRecipe) -> Value {
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "model": model,
        "adapter": adapter,
        "chatTemplate": recipe.chat_template,
        "precision": recipe.precision,
        "maxDescriptionTokens": recipe.max_description_tokens,
    })
}
