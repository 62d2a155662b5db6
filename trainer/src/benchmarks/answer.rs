//! The answers of one policy, journalled by question.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use stic_contract::Digest;
use stic_evaluation::registry::Question;

use super::prompting::Prompting;
use crate::error::Result;
use crate::io::journal::{self, Row};

/// A line of `answers-*.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Answer {
    id: String,
    pub(super) answer: String,
    /// The description that it was given after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    /// Whether it ended by itself, not at the limit of tokens.
    pub(super) finished: bool,
}

impl Row for Answer {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Answer {
    pub(super) const fn new(id: String, answer: String, description: Option<String>, finished: bool) -> Self {
        Self { id, answer, description, finished }
    }
}

/// The id of an answer. It contains the digest of all that is asked, so that a question whose text or image has changed under
/// its old name is asked again.
pub(super) fn answer_id(question: &Question, prompting: Prompting) -> String {
    let Question { benchmark, id, image, prompt, max_new_tokens, .. } = question;
    let asked = Digest::of_json(&json!([image, prompt, max_new_tokens, prompting]));
    format!("{benchmark}/{id} {}", asked.short(16))
}

/// All answers in the journal at `path`, by their ids.
///
/// # Errors
/// [`crate::Error::Storage`], [`crate::Error::Data`].
pub(super) fn read(path: &Path) -> Result<HashMap<String, Answer>> {
    journal::read::<Answer>(path)?.map(|answer| answer.map(|answer| (answer.id.clone(), answer))).collect()
}
