//! What a step says when it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::config::ShardSet;
use crate::digest::Digest;
use crate::pipeline::StepName;

/// The most bytes Kubernetes keeps of a termination message.
pub const MAX_RESULT_BYTES: usize = 4096;

/// Written to the termination message and beside the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepResult {
    /// The step.
    pub step: StepName,
    /// What it made or found made, upstream first. `prepare` lists its own and whatever later steps can reuse;
    /// `train` lists the sealed data and the adapter.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// The shards a sharded step leaves for its consumer to seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardSet>,
    /// The digests of the inputs as `prepare` found them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<InputDigests>,
    /// What became of the items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// The last metrics, under the names TRL gives them.
    #[serde(default)]
    pub metrics: BTreeMap<String, String>,
    /// Why it failed, or what a person should know; it ends with the mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl StepResult {
    /// A result of `step` that says nothing yet.
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

    /// As JSON of at most [`MAX_RESULT_BYTES`]: the message is what gives way.
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

/// What the inputs of a run hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputDigests {
    /// The model: over the names and bytes of config, tokenizer, processor and weight files.
    pub model: Digest,
    /// The adapter the run continues from, if any: its `adapter_model.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Digest>,
    /// The chosen items with the digest of every image.
    pub items: Digest,
    /// How many items that is.
    pub item_count: u64,
}

/// What became of the items of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ItemCounts {
    /// Asked for.
    pub total: u64,
    /// Done.
    pub done: u64,
    /// Left out and recorded.
    pub skipped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_and_the_rest_stays_whole() {
        let result = StepResult { message: Some("ü".repeat(9000)), ..StepResult::new(StepName::Train) };
        let text = result.to_termination_message();
        assert!(text.len() <= MAX_RESULT_BYTES);
        let back: StepResult = serde_json::from_str(&text).expect("it is still JSON");
        assert_eq!(back.step, StepName::Train);
        assert!(back.message.is_some_and(|m| m.len() > 1000));
    }
}
