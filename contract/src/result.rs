//! The result that a step reports when it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::config::ShardSet;
use crate::digest::Digest;
use crate::pipeline::StepName;

/// Kubernetes cuts termination messages at this many bytes.
pub const MAX_RESULT_BYTES: usize = 4096;

/// The result of a step. On a cluster it is the container's termination message; a local run reads it from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepResult {
    /// The step that ended.
    pub step: StepName,
    /// The artifacts produced or reused, in pipeline order. `prepare` lists its own and those that later steps can reuse;
    /// `train` lists the merged data and the adapter.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// The shards that a sharded step leaves for the next step to merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardSet>,
    /// The digests of the inputs; only `prepare` reports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<InputDigests>,
    /// How many items were processed and skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// The last metrics, under TRL's names, formatted for display.
    #[serde(default)]
    pub metrics: BTreeMap<String, String>,
    /// Why the step failed and how to fix it, or a note about a step that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl StepResult {
    /// An empty result of `step`.
    #[must_use]
    pub const fn new(step: StepName) -> Self {
        Self {
            step,
            artifacts: Vec::new(),
            shards: None,
            inputs: None,
            items: None,
            metrics: BTreeMap::new(),
            message: None,
        }
    }

    /// The result as JSON of at most [`MAX_RESULT_BYTES`]. The message is shortened first, then the metrics are dropped.
    #[must_use]
    pub fn to_termination_message(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.len() <= MAX_RESULT_BYTES {
            return text;
        }
        let mut short = self.clone();
        let mut message = self.message.clone().unwrap_or_default();
        loop {
            let keep = message.chars().count() / 2;
            message = message.chars().take(keep).collect();
            short.message = (keep > 0).then(|| format!("{message}…"));
            if keep == 0 {
                short.metrics.clear();
            }
            let text = serde_json::to_string(&short).unwrap_or_default();
            if text.len() <= MAX_RESULT_BYTES || keep == 0 {
                return text;
            }
        }
    }
}

/// The digests of a run's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputDigests {
    /// Of the base model: names and bytes of its config, tokenizer, processor and weight files.
    pub model: Digest,
    /// Of the initial adapter's `adapter_model.safetensors`. Absent if the run starts from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Digest>,
    /// Of the selected items, including the digest of every image.
    pub items: Digest,
    /// The number of selected items.
    pub item_count: u64,
}

/// The items of a step: `done + skipped` is at most `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ItemCounts {
    /// Items that the step has to process.
    pub total: u64,
    /// Items processed.
    pub done: u64,
    /// Items skipped because they could not be read; each is recorded with the reason.
    pub skipped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_shortened_and_the_rest_is_kept() {
        let result = StepResult { message: Some("ü".repeat(9000)), ..StepResult::new(StepName::Train) };
        let text = result.to_termination_message();
        assert!(text.len() <= MAX_RESULT_BYTES);
        let back: StepResult = serde_json::from_str(&text).expect("it is still JSON");
        assert_eq!(back.step, StepName::Train);
        assert!(back.message.is_some_and(|m| m.len() > 1000));
    }
}
