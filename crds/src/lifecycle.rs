//! What may change at any time: none of it decides a result.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often a step may fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backoff {
    /// How many times a step, or one shard of it, is tried again after a failure that may pass, such as a full disk
    /// or a lack of memory. An evicted or preempted pod does not count, and what cannot pass is not tried again.
    #[serde(default = "backoff_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub limit: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { limit: backoff_limit() }
    }
}

const fn backoff_limit() -> u32 {
    3
}

/// What stays when a run is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [crate::cel::rule(
    "!has(self.afterFinishedSeconds) || self.children == 'Delete'",
    "afterFinishedSeconds says when children are deleted: set children to Delete, or leave it out",
)]))]
pub struct Retention {
    /// Whether Jobs and ConfigMaps stay when the run has finished. The run itself always stays, as the record.
    #[serde(default)]
    pub children: Children,
    /// How long children stay after the end when they are deleted. Absent means not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub after_finished_seconds: Option<u32>,
    /// Whether a claim that was made for this run goes with it. Claims of others are never deleted.
    #[serde(default)]
    pub when_deleted: WhenDeleted,
}

/// What becomes of Jobs and ConfigMaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Children {
    /// They stay, and their logs with them.
    #[default]
    Keep,
    /// They are deleted.
    Delete,
}

/// What becomes of a claim that was made for a run when the run is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted.
    Delete,
}

/// What the settings that nobody wrote are taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// What the paper says.
    #[default]
    Paper,
    /// What the released code does where it departs from the paper.
    OfficialCompat,
}
