//! The progress of a running step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pipeline::StepName;

/// The port on which a step serves its progress over HTTP.
pub const PROGRESS_PORT: u16 = 8080;
/// The path that returns a [`Progress`] as JSON.
pub const PROGRESS_PATH: &str = "/progress";

/// The content of a progress file and of a response at [`PROGRESS_PATH`]. The file is replaced whole, never edited in
/// place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// The running step.
    pub step: StepName,
    /// What the step is doing now, for display: `checking images`, `generating`, `training`.
    pub activity: String,
    /// Units done, including those of earlier attempts.
    pub current: u64,
    /// Units in all; 0 while that is unknown.
    pub total: u64,
    /// What a unit is: `images`, `items`, `steps`.
    pub unit: String,
    /// Units done per second by this attempt; 0 until there is a rate.
    pub rate_per_second: f64,
    /// Seconds until the step ends at that rate. Absent until there is a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_remaining_seconds: Option<u64>,
    /// The latest metrics, under TRL's names, such as `loss` and `rewards/margins`.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Items skipped so far because they could not be read.
    #[serde(default)]
    pub skipped: u64,
    /// When this was written, in seconds since the Unix epoch.
    pub updated: u64,
}

impl Progress {
    /// Whole percent done; 100 only once every unit is done.
    #[must_use]
    pub fn percent(&self) -> u8 {
        if self.total == 0 {
            return 0;
        }
        let percent = u128::from(self.current) * 100 / u128::from(self.total);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}
