//! Scores answers, and compares the models that gave them.

use std::collections::BTreeSet;

use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};
use stic_evaluation::metric::{Metric, mean_of_repeats};
use stic_evaluation::registry::{Question, RegisteredBenchmark, StoredAnswer};
use stic_evaluation::results::{self, ResultRow, SubjectMetrics};

use super::answer::Answer;
use super::answers::Answers;
use super::question_file::QuestionFile;
use crate::error::Result;

/// What a judge said about answers.
pub trait Judgements {
    /// The judge's replies about an answer, for each time that it was judged; empty for an answer that needs no judge.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]; [`crate::Error::Data`] for a damaged file.
    fn replies(
        &self,
        subject: usize,
        question: &Question,
        prompting: Prompting,
        answer: &str,
    ) -> Result<Vec<Vec<String>>>;
}

/// What is scored, and how.
pub struct Scoring<'a, S> {
    pub questions: &'a QuestionFile,
    /// The names of the models, the baseline first.
    pub subjects: &'a [S],
    pub prompting: &'a [Prompting],
    pub scorers: &'a [Scorer],
    pub answers: &'a dyn Answers,
    pub judgements: Option<&'a dyn Judgements>,
}

/// What a model said about a question, and the judge about that.
struct JudgedAnswer {
    answer: Option<Answer>,
    replies: Vec<Vec<String>>,
}

/// The benchmarks that have questions in the file.
///
/// # Errors
/// [`crate::Error::Data`] for damaged questions; [`crate::Error::Storage`].
pub fn benchmarks_of(questions: &QuestionFile) -> Result<BTreeSet<BenchmarkName>> {
    questions.read().map(|question| Ok(question?.benchmark)).collect()
}

impl<S: AsRef<str>> Scoring<'_, S> {
    /// The rows of the results of `benchmarks`, in their order. One benchmark is in memory at a time.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for questions of another version; [`crate::Error::Storage`].
    pub fn rows(&self, benchmarks: impl IntoIterator<Item = BenchmarkName>) -> Result<Vec<ResultRow>> {
        let mut rows = Vec::new();
        for name in benchmarks {
            let of_benchmark = |question: &Result<Question>| {
                question.as_ref().map_or(true, |question| question.benchmark == name)
            };
            let questions: Vec<Question> =
                self.questions.read().filter(of_benchmark).collect::<Result<_>>()?;
            for prompting in self.prompting {
                self.add_rows(name, &questions, *prompting, &mut rows)?;
            }
        }
        Ok(rows)
    }

    fn add_rows(
        &self,
        name: BenchmarkName,
        questions: &[Question],
        prompting: Prompting,
        rows: &mut Vec<ResultRow>,
    ) -> Result<()> {
        let benchmark = RegisteredBenchmark::of_name(name);
        let answers: Vec<Vec<JudgedAnswer>> = (0..self.subjects.len())
            .map(|subject| {
                let answers = questions.iter().map(|question| self.judged(subject, question, prompting));
                answers.collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        for scorer in self.scorers {
            let metrics = self.subjects.iter().zip(&answers).map(|(subject, answers)| {
                let metrics = metrics(benchmark, *scorer, questions, answers)?;
                Ok(SubjectMetrics { subject: subject.as_ref(), metrics })
            });
            let metrics = metrics.collect::<Result<Vec<_>>>()?;
            rows.extend(results::rows(name, prompting, *scorer, &metrics));
        }
        Ok(())
    }

    fn judged(&self, subject: usize, question: &Question, prompting: Prompting) -> Result<JudgedAnswer> {
        let answer = self.answers.answer(subject, question, prompting)?;
        let replies = match (self.judgements, &answer) {
            (Some(judgements), Some(answer)) => {
                judgements.replies(subject, question, prompting, &answer.answer)?
            }
            _ => Vec::new(),
        };
        Ok(JudgedAnswer { answer, replies })
    }
}

/// The metrics of one model: of several judgements of an answer, the mean counts.
fn metrics(
    benchmark: &RegisteredBenchmark,
    scorer: Scorer,
    questions: &[Question],
    answers: &[JudgedAnswer],
) -> Result<Vec<Metric>> {
    let repeats = answers.iter().map(|judged| judged.replies.len()).max().unwrap_or_default().max(1);
    let of_repeat = |repeat: usize| {
        let stored =
            questions.iter().zip(answers).map(|(question, JudgedAnswer { answer, replies })| StoredAnswer {
                question,
                answer: answer.as_ref().map(|answer| answer.answer.as_str()),
                description: answer.as_ref().and_then(|answer| answer.description.as_deref()),
                replies: replies.get(repeat).map_or(&[], Vec::as_slice),
            });
        Ok(benchmark.metrics(scorer, &stored.collect::<Vec<_>>())?)
    };
    Ok(mean_of_repeats((0..repeats).map(of_repeat).collect::<Result<_>>()?))
}
