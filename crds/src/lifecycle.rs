//! Settings that can change at any time, because they do not affect a result; and the profile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The retry policy for failed steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backoff {
    /// The number of times that a step, or one shard of it, is retried after a failure that may be transient, such as
    /// a full disk or too little memory. Evicted and preempted pods do not count. Progress of any shard renews the limit.
    /// Failures that cannot be transient, such as invalid data, are not retried.
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

/// What is kept after a run has finished or was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [crate::cel::rule(
    "!has(self.afterFinishedSeconds) || self.children == 'Delete'",
    "afterFinishedSeconds is only allowed with children Delete: remove it or set children to Delete",
)]))]
pub struct Retention {
    /// What happens to the run's Jobs and ConfigMaps after it has finished: Keep keeps them and their logs; Delete
    /// deletes them. The run itself is always kept.
    #[serde(default)]
    pub children: Children,
    /// The time in seconds between the end of the run and the deletion of its Jobs and ConfigMaps. Only allowed with
    /// children Delete. Absent means that they are deleted immediately.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub after_finished_seconds: Option<u32>,
    /// What happens to a claim that was created from output.volumeClaimTemplate when the run is deleted: Retain keeps
    /// it; Delete deletes it with all artifacts. Other claims are never deleted.
    #[serde(default)]
    pub when_deleted: WhenDeleted,
}

/// What happens to Jobs and ConfigMaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Children {
    /// Keeps them, together with their logs.
    #[default]
    Keep,
    /// Deletes them.
    Delete,
}

/// What happens to the claim that was created for a run when the run is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// Keeps the claim.
    #[default]
    Retain,
    /// Deletes the claim with all artifacts.
    Delete,
}

/// The source of settings that are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// The paper.
    #[default]
    Paper,
    /// The released code, where it differs from the paper.
    OfficialCompat,
}
