//! What a report says, before it is put into tables and figures.

use std::collections::BTreeMap;

use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};

use super::claim::CheckedClaim;
use super::estimate::Estimate;
use super::files::StepMetrics;
use super::published::PublishedModel;

#[derive(Debug)]
pub(super) struct Report {
    /// Where the runs were read from.
    pub source: String,
    pub evaluations: Vec<Evaluation>,
    pub trainings: Vec<Training>,
    /// What is missing, and where it is.
    pub notes: Vec<String>,
    /// What the data can show of the paper's gains; `None` unless asked for.
    pub claims: Option<Vec<CheckedClaim>>,
}

#[derive(Debug)]
pub(super) struct Evaluation {
    /// `evaluationrun/coco-6k`.
    pub name: String,
    /// The published model that the baseline certainly is.
    pub model: Option<PublishedModel>,
    pub rows: Vec<Row>,
    /// The number of images that models were trained with, by the name of the model, where a run here says so.
    pub images: BTreeMap<String, u64>,
}

/// The score of a model.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub benchmark: BenchmarkName,
    pub prompting: Prompting,
    pub scorer: Scorer,
    /// Absent in a status, which has the headline only.
    pub metric: Option<String>,
    /// Whether this is the metric that stands for the benchmark.
    pub is_headline: bool,
    pub subject: String,
    pub score: Option<Estimate>,
    pub counted: u64,
    pub unresolved: u64,
    pub not_judged: u64,
    /// To the first model; `None` for the first.
    pub difference: Option<Difference>,
}

#[derive(Debug, Clone)]
pub(super) struct Difference {
    pub estimate: Option<Estimate>,
    /// The units that count for both models. Absent in a status.
    pub pairs: Option<u64>,
}

/// A run of stage 1 or 2.
#[derive(Debug)]
pub(super) struct Training {
    /// `stageonerun/coco-6k`.
    pub name: String,
    pub phase: Option<String>,
    /// The number of images that stage 1 used.
    pub images: Option<u64>,
    /// Every step; empty if they cannot be read from here.
    pub steps: Vec<StepMetrics>,
    /// The metrics of the last step.
    pub last: BTreeMap<String, f64>,
}
