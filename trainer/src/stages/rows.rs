//! The rows of the journals: what was asked, what was done to the image, what was answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::io::journal::Row;

/// A response and all that decided it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseRecord {
    /// What the user asked.
    pub prompt: String,
    /// What was done to the image before; null for a clean one.
    pub corruption: Option<Value>,
    /// The seed of the run; draws are keyed by it, the item's id and `purpose`.
    pub seed: u64,
    /// The purpose part of the key.
    pub purpose: String,
    /// The sampled token ids, with EOS only if it was sampled.
    pub tokens: Vec<u32>,
    /// The same as text, without special tokens.
    pub text: String,
    /// Whether it ended by itself.
    pub finished: bool,
}

/// A row of `preferences.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferenceRow {
    /// The item's id.
    pub id: String,
    /// Its image, relative to the image folder.
    pub image: String,
    /// The prompt both responses are trained under.
    pub prompt: String,
    /// The better response.
    pub chosen: ResponseRecord,
    /// The worse one; null when negatives are `None`.
    pub rejected: Option<ResponseRecord>,
}

/// A row of `descriptions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptionRow {
    /// The item's id.
    pub id: String,
    /// Its image, relative to the image folder.
    pub image: String,
    /// What the model wrote of it.
    pub description: ResponseRecord,
}

impl Row for PreferenceRow {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for DescriptionRow {
    fn id(&self) -> &str {
        &self.id
    }
}
