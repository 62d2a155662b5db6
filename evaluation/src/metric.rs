//! A score as a function of sums over units, so that one piece of statistics serves accuracies, F1 and ratios of means.

/// One metric of one model on one benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// As it is reported: `accuracy`, `imageAccuracy`, `f1`. The first metric of a benchmark is its headline.
    pub name: String,
    pub aggregate: Aggregate,
    /// In the order of the benchmark; the same for every model that is compared.
    pub units: Vec<Unit>,
}

/// What is counted at once: a question, or the rotations of one question, or a description.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Unique in the metric; the same unit of two models has the same id.
    pub id: String,
    /// What makes units dependent, usually the image.
    pub cluster: String,
    /// What it adds to the sums; `None` where a judge gave no score, so that it counts in no sum.
    pub sums: Option<Vec<f64>>,
    /// Whether no rule could tell what was answered; counted beside the score.
    pub unresolved: bool,
}

/// How the sums over all units become a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// `100 * sums[0] / sums[1]`: an accuracy (`[value, 1]`), or a ratio such as CHAIRi.
    Percentage,
    /// `100 * 2 tp / (2 tp + fp + fn)` of `[tp, fp, fn]`.
    F1,
    /// LLaVA-Bench: `100 * mean(model) / mean(reference)` of `[model, reference, 1]`, both means rounded to 3 decimals.
    RatioOfMeans,
}
