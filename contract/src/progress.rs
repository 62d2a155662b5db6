//! How far a running step is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pipeline::StepName;

/// The port a step serves its progress on.
pub const PROGRESS_PORT: u16 = 8080;
/// The path of it: a [`Progress`] as JSON.
pub const PROGRESS_PATH: &str = "/progress";

/// `progress.json`: replaced whole, never edited in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// The step.
    pub step: StepName,
    /// What it is doing now, for people: `checking images`, `generating`, `training`.
    pub activity: String,
    /// Units done, those of an earlier attempt included.
    pub current: u64,
    /// Units in all.
    pub total: u64,
    /// What a unit is: `images`, `items`, `steps`.
    pub unit: String,
    /// Units done per second by this attempt.
    pub rate_per_second: f64,
    /// Seconds to the end at that rate; absent until there is a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_remaining_seconds: Option<u64>,
    /// The latest metrics, under the names TRL gives them.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Items left out so far because they could not be read.
    #[serde(default)]
    pub skipped: u64,
    /// Seconds since the Unix epoch.
    pub updated: u64,
}

impl Progress {
    /// Whole percents done, 100 only at the end.
    #[must_use]
    pub fn percent(&self) -> u8 {
        if self.total == 0 {
            return 0;
        }
        let percent = u128::from(self.current) * 100 / u128::from(self.total);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}
