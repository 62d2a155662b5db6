//! The benchmarks by name, for programs that choose one at run time.

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stic_contract::Digest;
use stic_contract::evaluation::BenchmarkName;

use crate::benchmarks::amber::Amber;
use crate::benchmarks::chair::Chair;
use crate::benchmarks::chart_qa::ChartQa;
use crate::benchmarks::hallusion_bench::HallusionBench;
use crate::benchmarks::llava_bench::LlavaBench;
use crate::benchmarks::math_vista::MathVista;
use crate::benchmarks::mm_bench::MmBench;
use crate::benchmarks::mm_star::MmStar;
use crate::benchmarks::mm_vet::MmVet;
use crate::benchmarks::pope::Pope;
use crate::benchmarks::scenes::Scenes;
use crate::benchmarks::science_qa::ScienceQa;
use crate::benchmarks::text_vqa::TextVqa;
use crate::benchmarks::{Answered, Benchmark, Options};
use crate::error::{Error, Result};
use crate::judge::{Step, Template, Verdict};
use crate::metric::Metric;
use crate::published::{self, FileDigest, Form};
use crate::questions::{self, LoadedImage, Summary};
use crate::scorer::Scorer;

/// One for each [`BenchmarkName`], in their order.
pub const BENCHMARKS: &[RegisteredBenchmark] = &[
    RegisteredBenchmark::of::<ScienceQa>(),
    RegisteredBenchmark::of::<TextVqa>(),
    RegisteredBenchmark::of::<ChartQa>(),
    RegisteredBenchmark::of::<LlavaBench>(),
    RegisteredBenchmark::of::<MmBench>(),
    RegisteredBenchmark::of::<MmVet>(),
    RegisteredBenchmark::of::<MathVista>(),
    RegisteredBenchmark::of::<Pope>(),
    RegisteredBenchmark::of::<MmStar>(),
    RegisteredBenchmark::of::<HallusionBench>(),
    RegisteredBenchmark::of::<Amber>(),
    RegisteredBenchmark::of::<Chair>(),
    RegisteredBenchmark::of::<Scenes>(),
];

/// A benchmark by name.
#[derive(Debug, Clone, Copy)]
pub struct RegisteredBenchmark {
    pub name: BenchmarkName,
    pub forms: &'static [Form],
    /// Whether answers are scored by a judge, all or some of them.
    pub judged: bool,
    /// See [`Benchmark::JUDGE_PLACEHOLDERS`].
    pub judge_placeholders: &'static [&'static str],
    read: fn(&Path, &Selection, &mut Visitor<'_>) -> Result<Data>,
    metrics: fn(Scorer, &[StoredAnswer<'_>]) -> Result<Vec<Metric>>,
    judge: JudgeStep,
}

/// See [`Benchmark::judge`].
type JudgeStep = fn(&Template, &Question, &str, &[String]) -> Result<Option<Step<Verdict>>>;

/// Which questions are asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    pub options: Options,
    /// How many; `None` for all.
    pub limit: Option<usize>,
}

/// Receives each question with its image, or what is wrong with a row.
pub type Visitor<'a> = dyn FnMut(Result<(Question, Option<LoadedImage>)>) -> ControlFlow<()> + 'a;

/// What was read.
#[derive(Debug)]
pub struct Data {
    /// The form that the folder holds.
    pub form: &'static Form,
    pub files: Vec<FileDigest>,
    pub summary: Summary,
}

/// A question as a model is asked it, and as it is stored between the parts of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    pub benchmark: BenchmarkName,
    /// Unique in the benchmark.
    pub id: String,
    /// Identifies its image, if it has one.
    pub image: Option<Digest>,
    /// Without `<image>`.
    pub prompt: String,
    /// The most tokens of an answer.
    pub max_new_tokens: u32,
    /// What its scorers need.
    pub item: Value,
    /// Its file and row, for messages.
    pub place: String,
}

/// An answer to score.
#[derive(Debug, Clone, Copy)]
pub struct StoredAnswer<'a> {
    pub question: &'a Question,
    pub answer: Option<&'a str>,
    /// The description of the image that the answer was given after.
    pub description: Option<&'a str>,
    /// See [`Answered::replies`].
    pub replies: &'a [String],
}

/// The forms of every benchmark by its name.
#[must_use]
pub fn catalog() -> Vec<(&'static str, &'static [Form])> {
    BENCHMARKS.iter().map(|benchmark| (benchmark.name.as_str(), benchmark.forms)).collect()
}

impl RegisteredBenchmark {
    const fn of<B: Benchmark>() -> Self {
        Self {
            name: B::NAME,
            forms: B::FORMS,
            judged: !B::JUDGE_PLACEHOLDERS.is_empty(),
            judge_placeholders: B::JUDGE_PLACEHOLDERS,
            read: read::<B>,
            metrics: metrics::<B>,
            judge: judge::<B>,
        }
    }

    /// The benchmark of this name.
    #[must_use]
    pub const fn of_name(name: BenchmarkName) -> &'static Self {
        &BENCHMARKS[name as usize]
    }

    /// Passes the selected questions in `folder` to `visit`, until it breaks.
    ///
    /// # Errors
    /// [`Error::Folder`] and [`Error::File`].
    pub fn read(&self, folder: &Path, selection: &Selection, visit: &mut Visitor<'_>) -> Result<Data> {
        (self.read)(folder, selection, visit)
    }

    /// The metrics of one model by the rules of `scorer`; the headline first.
    ///
    /// # Errors
    /// [`Error::Row`] for a question of another version.
    pub fn metrics(&self, scorer: Scorer, answers: &[StoredAnswer<'_>]) -> Result<Vec<Metric>> {
        (self.metrics)(scorer, answers)
    }

    /// Whether an answer has no score by the rules of `scorer` unless a judge is asked. `question` is any one.
    ///
    /// # Errors
    /// [`Error::Row`] for a question of another version.
    pub fn needs_judge(&self, scorer: Scorer, question: &Question) -> Result<bool> {
        let unjudged = StoredAnswer { question, answer: Some(""), description: None, replies: &[] };
        let metrics = self.metrics(scorer, &[unjudged])?;
        Ok(metrics.first().is_some_and(|headline| headline.units.iter().all(|unit| unit.sums.is_none())))
    }

    /// See [`Benchmark::judge`].
    ///
    /// # Errors
    /// [`Error::Row`] for a question of another version.
    pub fn judge(
        &self,
        template: &Template,
        question: &Question,
        answer: &str,
        replies: &[String],
    ) -> Result<Option<Step<Verdict>>> {
        (self.judge)(template, question, answer, replies)
    }
}

fn read<B: Benchmark>(folder: &Path, selection: &Selection, visit: &mut Visitor<'_>) -> Result<Data> {
    let found = published::find(folder, B::FORMS, &catalog())?;
    let files = published::digests(&found)?;
    let mut questions = questions::read::<B>(&found, selection.options, selection.limit)?;
    let summary = questions.summary();
    while let Some(read) = questions.next() {
        let question = read.and_then(|read| {
            let questions::Question { sample, image, place, .. } = read;
            let prompt = questions.benchmark().prompt(&sample.item);
            let item = serde_json::to_value(&sample.item)
                .map_err(|error| Error::Row { place: place.clone(), message: error.to_string() })?;
            let question = Question {
                benchmark: B::NAME,
                id: sample.id,
                image: image.as_ref().map(|image| image.digest.clone()),
                prompt,
                max_new_tokens: B::MAX_NEW_TOKENS,
                item,
                place,
            };
            Ok((question, image))
        });
        if visit(question).is_break() {
            break;
        }
    }
    Ok(Data { form: found.form, files, summary })
}

fn metrics<B: Benchmark>(scorer: Scorer, answers: &[StoredAnswer<'_>]) -> Result<Vec<Metric>> {
    let items: Vec<B::Item> =
        answers.iter().map(|stored| item::<B>(stored.question)).collect::<Result<_>>()?;
    let clusters: Vec<String> = answers
        .iter()
        .map(|stored| {
            stored.question.image.as_ref().map_or_else(|| stored.question.id.clone(), Digest::to_string)
        })
        .collect();
    let answered: Vec<Answered<'_, B::Item>> = answers
        .iter()
        .zip(&items)
        .zip(&clusters)
        .map(|((stored, item), cluster)| Answered {
            id: &stored.question.id,
            cluster,
            item,
            answer: stored.answer,
            description: stored.description,
            replies: stored.replies,
        })
        .collect();
    Ok(B::metrics(scorer, &answered))
}

fn judge<B: Benchmark>(
    template: &Template,
    question: &Question,
    answer: &str,
    replies: &[String],
) -> Result<Option<Step<Verdict>>> {
    Ok(B::judge(template, &item::<B>(question)?, answer, replies))
}

fn item<B: Benchmark>(question: &Question) -> Result<B::Item> {
    let Question { item, place, .. } = question;
    B::Item::deserialize(item)
        .map_err(|error| Error::Row { place: place.clone(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_benchmark() {
        assert_eq!(BENCHMARKS.iter().map(|benchmark| benchmark.name).collect::<Vec<_>>(), BenchmarkName::ALL);
        for name in BenchmarkName::ALL {
            assert_eq!(RegisteredBenchmark::of_name(name).name, name);
        }
    }
}
