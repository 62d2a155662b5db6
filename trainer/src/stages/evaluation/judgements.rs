//! The judgements of an evaluation in one file, with what the judge was asked and what it replied.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stic_contract::Digest;
use stic_contract::evaluation::{BenchmarkName, Prompting, Subject};
use stic_evaluation::judge::Request;
use stic_evaluation::registry::Question;

use crate::benchmarks::Judgements;
use crate::error::{Error, Result};
use crate::io::journal::RowLookup;

/// A line of `judgements.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Judgement {
    pub(super) subject: String,
    pub(super) prompting: Prompting,
    pub(super) benchmark: BenchmarkName,
    /// Of the question.
    pub(super) id: String,
    /// Of the answer that was judged.
    pub(super) answer: Digest,
    pub(super) repeat: u32,
    /// Whether the judge gave no score, however often it was asked.
    pub(super) failed: bool,
    pub(super) exchanges: Vec<Exchange>,
}

/// What the judge was asked, and its reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Exchange {
    pub(super) request: Request,
    pub(super) reply: String,
}

/// The judgements in a file.
pub(super) struct SealedJudgements {
    rows: RowLookup<Judgement>,
    subjects: Vec<String>,
}

impl SealedJudgements {
    pub(super) fn open(path: &Path, subjects: &[Subject]) -> Result<Self> {
        let mut rows = RowLookup::default();
        rows.add(path, |row: &Judgement| {
            key(&row.subject, row.prompting, row.benchmark, &row.id, row.repeat)
        })?;
        Ok(Self { rows, subjects: subjects.iter().map(|subject| subject.name.clone()).collect() })
    }
}

impl Judgements for SealedJudgements {
    fn replies(
        &self,
        subject: usize,
        question: &Question,
        prompting: Prompting,
        answer: &str,
    ) -> Result<Vec<Vec<String>>> {
        let Some(subject) = self.subjects.get(subject) else { return Ok(Vec::new()) };
        let row = |repeat| {
            let key = key(subject, prompting, question.benchmark, &question.id, repeat);
            let row = self.rows.get(&key).transpose()?;
            Some(row.and_then(|row| replies(row, answer)))
        };
        (0..).map_while(row).collect()
    }
}

fn replies(judgement: Judgement, answer: &str) -> Result<Vec<String>> {
    let Judgement { subject, benchmark, id, answer: judged, exchanges, .. } = judgement;
    if judged != Digest::of(answer.as_bytes()) {
        return Err(Error::Data(format!(
            "the judgement about the answer of {subject} to {benchmark}/{id} is of another answer; run the step judge again"
        )));
    }
    Ok(exchanges.into_iter().map(|exchange| exchange.reply).collect())
}

/// Names of subjects, ways of asking and benchmarks contain no slash.
fn key(subject: &str, prompting: Prompting, benchmark: BenchmarkName, question: &str, repeat: u32) -> String {
    format!("{subject}/{}/{benchmark}/{repeat}/{question}", prompting.as_str())
}
