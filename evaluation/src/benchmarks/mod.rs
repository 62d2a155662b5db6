//! The benchmarks, one file each: which files and columns, what is asked, and how answers are scored.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
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

/// An answer to score.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a, I> {
    pub id: &'a str,
    /// What identifies the question's image; questions with the same image are dependent. The id where there is no image.
    pub cluster: &'a str,
    pub item: &'a I,
    /// `None` if the model was not asked or did not answer.
    pub answer: Option<&'a str>,
    /// What the judge replied, call by call; empty for a benchmark without judge.
    pub replies: &'a [String],
}

/// A published benchmark.
pub trait Benchmark: Sized {
    /// Its name in manifests.
    const NAME: &'static str;
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

    /// The image file of a row where images are files, relative to one of the form's folders.
    fn image_path(_record: &Record) -> Option<String> {
        None
    }

    /// The question block as LLaVA's scripts ask it, without `<image>`.
    fn prompt(&self, item: &Self::Item) -> String;

    /// The metrics of one model by the rules of `scorer`; the headline first.
    fn metrics(scorer: Scorer, answers: &[Answered<'_, Self::Item>]) -> Vec<Metric>;
}
