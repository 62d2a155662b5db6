//! What a benchmark provides.

use std::path::Path;

use serde_json::{Map, Value};

use super::answers::PolicyAnswers;
use super::questions::ImageQuestions;
use super::score_table::{Metric, ScoreTable};
use crate::error::Result;

/// The command line options that select the questions of a benchmark.
#[derive(Debug, Clone, Copy)]
pub struct BenchmarkOptions<'a> {
    pub questions: &'a Path,
    pub scenes: Option<&'a Path>,
}

/// Held-out questions about images. Every question is asked twice: directly, and after the policy's own description of
/// the image (describe-and-respond).
pub trait Benchmark: Sized {
    /// Its name on the command line.
    const NAME: &'static str;

    /// Reads and checks its files.
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming file and line; [`crate::Error::Config`] for an option that it needs.
    fn read(options: &BenchmarkOptions<'_>) -> Result<Self>;

    /// What decides the answers besides models, template and description length: its name and the digests of its files.
    /// An interrupted evaluation is resumed only if nothing of this has changed.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    fn key(&self) -> Result<Map<String, Value>>;

    /// Everything to ask, one entry per image, in the order of images.
    fn requests(&self) -> Vec<ImageQuestions<'_>>;

    /// The metrics of one policy, in the order of the table's columns. Each has one value per example, and the examples
    /// are the same for every policy.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for an answer that is missing.
    fn score(&self, answers: &PolicyAnswers<'_>) -> Result<Vec<Metric>>;

    /// The printed report, usually `table` and a line about the number of questions.
    fn render(&self, table: &ScoreTable) -> String;
}
