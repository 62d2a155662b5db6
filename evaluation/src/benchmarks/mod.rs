//! The benchmarks, one file each: which files and columns, what is asked, and how answers are scored.

pub mod amber;
pub mod chair;
pub mod chart_qa;
pub mod choice;
mod columns;
pub mod hallusion_bench;
pub mod llava_bench;
pub mod math_vista;
pub mod mm_bench;
pub mod mm_star;
pub mod mm_vet;
pub mod pope;
pub mod scenes;
pub mod science_qa;
pub mod text_vqa;
pub mod yes_no;

pub use crate::answered::Answered;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stic_contract::evaluation::BenchmarkName;

use crate::error::Result;
use crate::judge::{Step, Template, Verdict};
use crate::metric::Metric;
use crate::published::{Form, FormKind, FoundForm, Record};
use crate::scorer::Scorer;

/// What a user may choose about the questions of a benchmark.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// TextVQA: whether the prompt lists the published OCR tokens.
    pub ocr_tokens: bool,
}

/// A row as one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<I> {
    /// Unique in the benchmark, and the same in every published form.
    pub id: String,
    pub item: I,
}

/// A published benchmark.
pub trait Benchmark: Sized {
    /// Its name in manifests.
    const NAME: BenchmarkName;
    /// The most tokens of an answer.
    const MAX_NEW_TOKENS: u32;
    /// The forms in which it is published.
    const FORMS: &'static [Form];
    /// What prompts and scorers need of a row, without the image. It is stored as JSON between the steps of an evaluation.
    type Item: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug;

    /// Reads the companions of a form.
    ///
    /// # Errors
    /// [`crate::error::Error::File`].
    fn open(found: &FoundForm, options: Options) -> Result<Self>;

    /// The question of a row; `None` for a row of another split.
    ///
    /// # Errors
    /// [`crate::error::Error::Row`] naming the column and how to fix it.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Self::Item>>>;

    /// Questions with the same unit are only scored together, as the rotations of one MMBench question are: a subset has all
    /// of them or none.
    fn unit(sample: &Sample<Self::Item>) -> String {
        sample.id.clone()
    }

    /// The image file of a row where images are files, relative to one of the form's folders.
    fn image_path(_record: &Record) -> Option<String> {
        None
    }

    /// The question block as LLaVA's scripts ask it, without `<image>`.
    fn prompt(&self, item: &Self::Item) -> String;

    /// What a judge's prompt must hold; empty for a benchmark without judge.
    const JUDGE_PLACEHOLDERS: &'static [&'static str] = &[];

    /// Where the exchange with the judge about one answer stands, given its replies so far; `None` if no judge is needed. The
    /// protocol is the benchmark's own, whatever the scorer: all scorers read the same replies.
    fn judge(
        _template: &Template,
        _item: &Self::Item,
        _answer: &str,
        _replies: &[String],
    ) -> Option<Step<Verdict>> {
        None
    }

    /// The metrics of one model by the rules of `scorer`; the headline first. Empty if that program does not score this
    /// benchmark.
    fn metrics(scorer: Scorer, answers: &[Answered<'_, Self::Item>]) -> Vec<Metric>;
}
