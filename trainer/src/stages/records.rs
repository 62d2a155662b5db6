//! The rows of the journals that `generate` and `describe` write.

use serde::{Deserialize, Serialize};

use crate::inference::ResponseRecord;
use crate::io::journal::Row;

/// A row of `preferences.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferenceRecord {
    /// The item's id.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    /// The prompt that both responses are trained under.
    pub prompt: String,
    pub chosen: ResponseRecord,
    /// Null if negatives are `None`.
    pub rejected: Option<ResponseRecord>,
}

/// A row of `descriptions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptionRecord {
    /// The item's id.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    pub description: ResponseRecord,
}

impl Row for PreferenceRecord {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for DescriptionRecord {
    fn id(&self) -> &str {
        &self.id
    }
}
