//! All answers of an evaluation in one file, in an order that does not depend on when they were given.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::{BenchmarkName, Prompting};
use stic_evaluation::registry::Question;

use super::answer::{Answer, answer_id};
use super::answers::{Answers, missing};
use super::question_file::QuestionFile;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::journal::{self, RowLookup};

/// A line of `answers.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SealedAnswer {
    subject: String,
    prompting: Prompting,
    benchmark: BenchmarkName,
    /// Of the question.
    id: String,
    answer: String,
    /// The description that it was given after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    finished: bool,
}

/// Writes the answers to `path`: in the order of the questions, then of the subjects, then of `prompting`. Returns how many
/// there are.
///
/// # Errors
/// [`Error::Data`] saying how many are missing; [`Error::Storage`].
pub fn seal<S: AsRef<str>>(
    path: &Path,
    questions: &QuestionFile,
    subjects: &[S],
    prompting: &[Prompting],
    answers: &dyn Answers,
) -> Result<u64> {
    let (mut written, mut lacking) = (0, 0);
    atomic::write_with(path, |file| {
        let mut out = BufWriter::new(file);
        for question in questions.read() {
            let question = question?;
            for (index, subject) in subjects.iter().enumerate() {
                for prompting in prompting {
                    match answers.answer(index, &question, *prompting)? {
                        Some(answer) => {
                            let row = sealed(subject.as_ref(), *prompting, &question, answer);
                            journal::write_row(&mut out, path, &row)?;
                            written += 1;
                        }
                        None => lacking += 1,
                    }
                }
            }
        }
        out.flush().map_err(Error::storage(path))?;
        if lacking > 0 { Err(missing(lacking)) } else { Ok(written) }
    })
}

fn sealed(subject: &str, prompting: Prompting, question: &Question, answer: Answer) -> SealedAnswer {
    let Answer { id: _, answer, description, finished } = answer;
    SealedAnswer {
        subject: subject.to_owned(),
        prompting,
        benchmark: question.benchmark,
        id: question.id.clone(),
        answer,
        description,
        finished,
    }
}

/// The answers in a file that [`seal`] wrote.
#[derive(Debug)]
pub struct SealedAnswers {
    rows: RowLookup<SealedAnswer>,
    subjects: Vec<String>,
}

impl SealedAnswers {
    /// # Errors
    /// As [`RowLookup::add`].
    pub fn open(path: &Path, subjects: Vec<String>) -> Result<Self> {
        let mut rows = RowLookup::default();
        rows.add(path, |row: &SealedAnswer| key(&row.subject, row.prompting, row.benchmark, &row.id))?;
        Ok(Self { rows, subjects })
    }
}

impl Answers for SealedAnswers {
    fn answer(&self, subject: usize, question: &Question, prompting: Prompting) -> Result<Option<Answer>> {
        let Some(subject) = self.subjects.get(subject) else { return Ok(None) };
        let row = self.rows.get(&key(subject, prompting, question.benchmark, &question.id))?;
        Ok(row.map(|SealedAnswer { answer, description, finished, .. }| Answer {
            id: answer_id(question, prompting),
            answer,
            description,
            finished,
        }))
    }
}

/// Names of subjects, ways of asking and benchmarks contain no slash.
fn key(subject: &str, prompting: Prompting, benchmark: BenchmarkName, question: &str) -> String {
    format!("{subject}/{}/{benchmark}/{question}", prompting.as_str())
}
