//! The answers that a judge reads: which there are, and where the exchanges about them stand.

use std::collections::HashSet;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use stic_contract::Digest;
use stic_contract::digest::Hasher;
use stic_contract::evaluation::{BenchmarkName, Prompting, Subject};
use stic_evaluation::registry::{Question, RegisteredBenchmark};

use super::journal_folder::JournalFolder;
use super::judgements::{Exchange, Judgement};
use crate::benchmarks::{Answers, QuestionFile, missing};
use crate::error::{Error, Result};
use crate::io::{atomic, journal};
use crate::judging::{Case, Exchanges, Prompt, Standing};

/// A benchmark that a judge reads, and where its replies are.
pub(super) struct JudgedBenchmark {
    pub(super) benchmark: &'static RegisteredBenchmark,
    pub(super) prompt: Prompt,
    pub(super) folder: JournalFolder,
}

impl JudgedBenchmark {
    pub(super) fn exchanges(&self) -> Result<Exchanges<'_>> {
        Exchanges::read(self.benchmark, &self.prompt.template, &self.folder.journals()?)
    }
}

/// All answers to judged benchmarks.
pub(super) struct Cases<'a> {
    pub(super) questions: &'a QuestionFile,
    pub(super) subjects: &'a [Subject],
    pub(super) prompting: &'a [Prompting],
    /// How often each answer is judged.
    pub(super) repeats: u32,
    pub(super) answers: &'a dyn Answers,
    pub(super) benchmarks: &'a [JudgedBenchmark],
}

/// A case, and whose answer it is.
struct OwnedCase<'a> {
    subject: &'a str,
    prompting: Prompting,
    case: Case,
}

/// What there is to judge. Equal answers to a question count once.
pub(super) struct Survey {
    pub(super) total: u64,
    /// Of these, those that are not settled.
    pub(super) open: u64,
    /// Of all answers.
    pub(super) answers: Digest,
}

impl<'a> Cases<'a> {
    /// The cases of one benchmark.
    pub(super) fn of(&self, benchmark: BenchmarkName) -> impl Iterator<Item = Result<Case>> + Send {
        self.all().filter_map(move |owned| match owned {
            Ok(owned) => (owned.case.question.benchmark == benchmark).then_some(Ok(owned.case)),
            Err(error) => Some(Err(error)),
        })
    }

    /// Counts the cases.
    ///
    /// # Errors
    /// [`Error::Data`] if answers are missing.
    pub(super) fn survey(&self) -> Result<Survey> {
        self.require_answers()?;
        let exchanges = self.exchanges()?;
        let (mut total, mut open) = (0, 0);
        let mut seen = HashSet::new();
        let mut hasher = Hasher::default();
        for owned in self.all() {
            let OwnedCase { subject, prompting, case } = owned?;
            let id = case.id();
            hasher.update(format!("{subject}/{}/{id}\n", prompting.as_str()).as_bytes());
            if !seen.insert(Digest::of(id.as_bytes())) {
                continue;
            }
            let standing = of(&exchanges, case.question.benchmark)?.standing(&case)?;
            total += u64::from(!matches!(standing, Standing::Unneeded));
            open += u64::from(matches!(standing, Standing::Open));
        }
        Ok(Survey { total, open, answers: hasher.finish() })
    }

    /// Writes the judgements to `path`: in the order of the questions, then of the subjects, the ways of asking and the repeats.
    /// Returns of how many answers the judge gave no score.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] for an answer that is not settled.
    pub(super) fn seal(&self, path: &Path) -> Result<u64> {
        let exchanges = self.exchanges()?;
        let mut without_score = 0;
        atomic::write_with(path, |file| {
            let mut out = BufWriter::new(file);
            for owned in self.all() {
                let OwnedCase { subject, prompting, case } = owned?;
                let Case { question, answer, repeat } = &case;
                let (failed, replies) = match of(&exchanges, question.benchmark)?.standing(&case)? {
                    Standing::Unneeded => continue,
                    Standing::Settled { failed, exchanges } => (failed, exchanges),
                    Standing::Open => {
                        return Err(Error::Data(format!(
                            "the answer of {subject} to {}/{} is not judged; run the step judge again",
                            question.benchmark, question.id
                        )));
                    }
                };
                without_score += u64::from(failed);
                let judgement = Judgement {
                    subject: subject.to_owned(),
                    prompting,
                    benchmark: question.benchmark,
                    id: question.id.clone(),
                    answer: Digest::of(answer.as_bytes()),
                    repeat: *repeat,
                    failed,
                    exchanges: replies
                        .into_iter()
                        .map(|reply| Exchange { request: reply.request, reply: reply.reply })
                        .collect(),
                };
                journal::write_row(&mut out, path, &judgement)?;
            }
            out.flush().map_err(Error::storage(path))
        })?;
        Ok(without_score)
    }

    fn exchanges(&self) -> Result<Vec<(BenchmarkName, Exchanges<'a>)>> {
        let exchanges = self.benchmarks.iter().map(|judged| Ok((judged.benchmark.name, judged.exchanges()?)));
        exchanges.collect()
    }

    /// The questions of judged benchmarks.
    fn judged(&self) -> impl Iterator<Item = Result<Question>> + Send {
        let is_judged = |question: &Question| {
            self.benchmarks.iter().any(|judged| judged.benchmark.name == question.benchmark)
        };
        self.questions.read().filter(move |question| question.as_ref().map_or(true, is_judged))
    }

    fn require_answers(&self) -> Result<()> {
        let mut lacking = 0;
        for question in self.judged() {
            let question = question?;
            for subject in 0..self.subjects.len() {
                for prompting in self.prompting {
                    lacking += u64::from(self.answers.answer(subject, &question, *prompting)?.is_none());
                }
            }
        }
        if lacking > 0 { Err(missing(lacking)) } else { Ok(()) }
    }

    fn all(&self) -> impl Iterator<Item = Result<OwnedCase<'a>>> + Send {
        self.judged().flat_map(move |question| {
            match question.and_then(|question| self.of_question(&question)) {
                Ok(cases) => cases.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    fn of_question(&self, question: &Question) -> Result<Vec<OwnedCase<'a>>> {
        let mut cases = Vec::new();
        for (index, subject) in self.subjects.iter().enumerate() {
            for prompting in self.prompting {
                let answer = self.answers.answer(index, question, *prompting)?.ok_or_else(|| missing(1))?;
                cases.extend((0..self.repeats).map(|repeat| OwnedCase {
                    subject: &subject.name,
                    prompting: *prompting,
                    case: Case { question: question.clone(), answer: answer.answer.clone(), repeat },
                }));
            }
        }
        Ok(cases)
    }
}

/// Those of a benchmark.
fn of<'e, 'a>(
    exchanges: &'e [(BenchmarkName, Exchanges<'a>)],
    benchmark: BenchmarkName,
) -> Result<&'e Exchanges<'a>> {
    let found = exchanges.iter().find(|(name, _)| *name == benchmark);
    found.map(|(_, exchanges)| exchanges).ok_or_else(|| {
        Error::Data(format!("{benchmark} has no prompt for the judge; run the step judge again"))
    })
}
