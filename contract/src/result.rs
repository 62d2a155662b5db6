//! The result that a step reports when it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::config::ShardSet;
use crate::digest::Digest;
use crate::evaluation::{BenchmarkName, Prompting, Scorer};
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
    /// The digests of the models of an evaluation; only `prepare` reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<SubjectDigests>,
    /// The headline scores of an evaluation, as many as a result has room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<BenchmarkScores>,
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
            subjects: Vec::new(),
            scores: Vec::new(),
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

/// The digests of a model that is evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectDigests {
    /// The user's name for the model.
    pub name: String,
    /// Of the base model.
    pub model: Digest,
    /// Of the adapter's `adapter_model.safetensors`. Absent for the base model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Digest>,
}

/// The headline metric of one benchmark, way of asking and scorer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BenchmarkScores {
    /// The benchmark.
    pub benchmark: BenchmarkName,
    /// How the questions were asked.
    pub prompting: Prompting,
    /// By whose rules the answers were scored.
    pub scorer: Scorer,
    /// Of each model, in the order of the spec.
    pub of: Vec<SubjectScore>,
}

/// The score of one model, rounded for display. Its keys are short, because a result has room for few bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectScore {
    /// In points. Absent if no answer has a score.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub points: Option<String>,
    /// Its standard error, in points. Absent where the score is not a mean.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<String>,
    /// How many answers the score is over.
    #[serde(rename = "n")]
    pub counted: u64,
    /// How many of these no rule understood; they count as wrong.
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    pub unresolved: u64,
    /// How many answers the judge gave no score; they are not counted.
    #[serde(rename = "f", default, skip_serializing_if = "is_zero")]
    pub judge_failed: u64,
    /// The difference to the first model, and the bounds of its 95% interval.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<[String; 3]>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
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
