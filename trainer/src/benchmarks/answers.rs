//! Where the answers of several models are.

use std::path::Path;

use stic_contract::evaluation::Prompting;
use stic_evaluation::registry::Question;

use super::answer::{Answer, answer_id};
use crate::error::{Error, Result};
use crate::io::journal::RowLookup;

/// The answers of the subjects of an evaluation.
pub trait Answers: Sync {
    /// The answer of a subject, by its position.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] for a damaged file.
    fn answer(&self, subject: usize, question: &Question, prompting: Prompting) -> Result<Option<Answer>>;
}

/// Those in the journals that they were written to.
#[derive(Debug, Default)]
pub struct JournalledAnswers {
    subjects: Vec<RowLookup<Answer>>,
}

impl JournalledAnswers {
    /// Adds the next subject, whose answers are in `journals`.
    ///
    /// # Errors
    /// As [`RowLookup::add`].
    pub fn add_subject<P: AsRef<Path>>(&mut self, journals: &[P]) -> Result<()> {
        self.subjects.push(lookup(journals)?);
        Ok(())
    }
}

impl Answers for JournalledAnswers {
    fn answer(&self, subject: usize, question: &Question, prompting: Prompting) -> Result<Option<Answer>> {
        let answers = self.subjects.get(subject);
        answers.map_or(Ok(None), |answers| answers.get(&answer_id(question, prompting)))
    }
}

/// The answers in `journals`. If two have one to the same question, that in the first counts.
///
/// # Errors
/// As [`RowLookup::add`].
pub(super) fn lookup<P: AsRef<Path>>(journals: &[P]) -> Result<RowLookup<Answer>> {
    let mut answers = RowLookup::default();
    for journal in journals {
        answers.add(journal.as_ref(), |answer: &Answer| answer.id.clone())?;
    }
    Ok(answers)
}

/// Says how many answers are missing.
#[must_use]
pub fn missing(count: u64) -> Error {
    let are = if count == 1 { "1 answer is" } else { &format!("{count} answers are") };
    Error::Data(format!("{are} missing; run the step answer again, which asks only what has no answer yet"))
}
