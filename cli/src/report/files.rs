//! The files that a report reads, with the fields that it uses. The evaluation crate writes more into `results.json`; this
//! program does not depend on it, because its readers of benchmarks would make the plugin several times as large.

use std::collections::BTreeMap;

use serde::Deserialize;
use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};

/// The file beside an adapter with a line for each step.
pub(super) const METRICS_FILE: &str = "metrics.jsonl";

/// A row of `results.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ResultRow {
    pub benchmark: BenchmarkName,
    pub prompting: Prompting,
    pub scorer: Scorer,
    pub metric: String,
    pub subject: String,
    pub score: ResultScore,
    pub difference: Option<ResultDifference>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ResultScore {
    pub estimate: Option<ResultEstimate>,
    pub counted: u64,
    pub unresolved: u64,
    pub failed: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ResultDifference {
    pub estimate: Option<ResultEstimate>,
    pub pairs: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct ResultEstimate {
    pub points: f64,
    pub low: f64,
    pub high: f64,
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StepMetrics {
    pub step: u64,
    /// By TRL's names. A value that is not finite is `null`.
    #[serde(flatten)]
    pub values: BTreeMap<String, Option<f64>>,
}

/// The steps of `metrics.jsonl`. A line that is cut off, as a killed process may leave it, is left out.
pub(super) fn steps(text: &str) -> Vec<StepMetrics> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
