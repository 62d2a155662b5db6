//! A response as the journals hold it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A response and everything that decided it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseRecord {
    pub prompt: String,
    /// How the image was corrupted; null for a clean one.
    pub corruption: Option<Value>,
    /// The seed of the run; draws are keyed by it, the item's id and `purpose`.
    pub seed: u64,
    pub purpose: String,
    /// The sampled token ids, with EOS only if it was sampled.
    pub tokens: Vec<u32>,
    /// The same as text, without special tokens.
    pub text: String,
    /// Whether it ended with an EOS, not at the length limit.
    pub finished: bool,
}
