//! ChartQA: questions about charts, written by people or made from captions by a program.

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::{Answered, Benchmark, Options, Sample, columns};
use crate::error::Result;
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::scorer::Scorer;

/// How many questions of each origin there are.
const QUESTIONS: u64 = 1250;

/// ChartQA, test split.
#[derive(Debug)]
pub struct ChartQa;

/// Who made a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Human,
    Augmented,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Augmented => "augmented",
        }
    }
}

/// A question of ChartQA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    pub answer: String,
    pub origin: Origin,
}

impl Benchmark for ChartQa {
    const NAME: BenchmarkName = BenchmarkName::ChartQa;
    const MAX_NEW_TOKENS: u32 = 16;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/ChartQA)",
            rows: &["test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["type", "question", "answer"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (HuggingFaceM4/ChartQA)",
            rows: &["test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["query", "label", "human_or_machine"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's ChartQA_TEST.tsv",
            rows: &["ChartQA_TEST.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer", "split"],
            image: ImageSource::Column("image"),
            known: &[("ChartQA_TEST.tsv", "c902e0aa9be5582a7aad6dcf52734b42")],
        },
        Form {
            kind: FormKind::Original,
            title: "ChartQA's test folder",
            rows: &["test_human.json", "test_augmented.json"],
            format: Format::JsonArray,
            companions: &[],
            columns: &["imgname", "query", "label"],
            image: ImageSource::Folder(&["test/png", "png"]),
            known: &[],
        },
    ];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// No form has ids. All have the order of the original files, so the id is the origin and the number in its file:
    /// `human_1`. A table in another order gets ids of its own (`row_1`), which compare only with themselves.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let origin = origin(form, record)?;
        let first = match (form, origin) {
            (FormKind::Original, _) | (_, Origin::Human) => 0,
            (_, Origin::Augmented) => QUESTIONS,
        };
        let number = record.row.checked_sub(first).filter(|number| (1..=QUESTIONS).contains(number));
        let id = match number {
            Some(number) => format!("{}_{number}", origin.name()),
            None => format!("row_{}", record.row),
        };
        let column = if record.fields.contains_key("query") { "query" } else { "question" };
        let question = columns::text(record, column)?;
        Ok(Some(Sample { id, item: Item { question, answer: reference(form, record)?, origin } }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "imgname").ok()
    }

    /// lmms-eval's prompt (`lmms_eval/tasks/chartqa/chartqa.yaml`). LLaVA has no script for ChartQA.
    fn prompt(&self, item: &Item) -> String {
        format!("{}\nAnswer the question with a single word.", item.question)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let unit = |answer: &Answered<'_, Item>| {
            let correct = answer.answer.is_some_and(|text| is_correct(scorer, text, &answer.item.answer));
            Unit::of(answer, vec![f64::from(u8::from(correct)), 1.0], false)
        };
        let of = |origin| answers.iter().filter(move |answer| answer.item.origin == origin);
        let metric =
            |name: &str, units| Metric { name: name.to_owned(), aggregate: Aggregate::Percentage, units };
        let mut metrics = vec![metric("overall", answers.iter().map(unit).collect())];
        for origin in [Origin::Human, Origin::Augmented] {
            metrics.push(metric(origin.name(), of(origin).map(unit).collect()));
        }
        metrics
    }
}

fn origin(form: FormKind, record: &Record) -> Result<Origin> {
    let (column, text) = match form {
        FormKind::Original => ("imgname", record.file.clone()),
        FormKind::Tsv => ("split", columns::text(record, "split")?),
        FormKind::Parquet if record.fields.contains_key("human_or_machine") => {
            ("human_or_machine", columns::text(record, "human_or_machine")?)
        }
        FormKind::Parquet => ("type", columns::text(record, "type")?),
    };
    match text.as_str() {
        "test_human.json" | "test_human" | "human_test" | "0" => Ok(Origin::Human),
        "test_augmented.json" | "test_augmented" | "augmented_test" | "1" => Ok(Origin::Augmented),
        _ => Err(columns::error(record, column, "does not tell whether a person asked the question")),
    }
}

/// The reference answer as text. HuggingFaceM4 wraps it in a list, and so may VLMEvalKit's table. An empty cell of the table
/// is one whose text pandas left out when it wrote it.
fn reference(form: FormKind, record: &Record) -> Result<String> {
    match form {
        FormKind::Tsv => {
            let cell = columns::optional_text(record, "answer")?.unwrap_or_default();
            match python::list(&cell).as_deref() {
                Some([answer]) => Ok(answer.clone()),
                _ => Ok(cell),
            }
        }
        FormKind::Parquet if record.fields.contains_key("label") => {
            match columns::texts(record, "label")?.as_slice() {
                [answer] => Ok(answer.clone()),
                _ => Err(columns::error(record, "label", "does not hold exactly one answer")),
            }
        }
        FormKind::Parquet => columns::text(record, "answer"),
        FormKind::Original => columns::text(record, "label"),
    }
}

/// Whether `answer` counts as `reference`.
///
/// LLaVA has no rule for ChartQA; the benchmark's own is lmms-eval's (`lmms_eval/tasks/chartqa/utils.py`). VLMEvalKit
/// (`process_line` in `vlmeval/dataset/utils/vqa_eval.py`) trims the answer, reads both from tables, and takes a reference that
/// is a list for alternatives.
#[must_use]
pub fn is_correct(scorer: Scorer, answer: &str, reference: &str) -> bool {
    match scorer {
        Scorer::Llava | Scorer::LmmsEval => is_relaxed_match(answer, reference),
        Scorer::VlmEvalKit => {
            let answer = python::strip(python::from_table(answer));
            match python::list(reference) {
                Some(alternatives) => {
                    alternatives.iter().any(|reference| is_relaxed_match(answer, reference))
                }
                None => is_relaxed_match(answer, python::from_table(reference)),
            }
        }
    }
}

/// Whether two numbers differ by at most 5% of the reference, or two texts by case only. A reference of zero is compared as
/// text.
#[must_use]
pub fn is_relaxed_match(answer: &str, reference: &str) -> bool {
    match (number(answer), number(reference)) {
        (Some(answer), Some(reference)) if reference != 0.0 => {
            (answer - reference).abs() / reference.abs() <= 0.05
        }
        _ => answer.to_lowercase() == reference.to_lowercase(),
    }
}

fn number(text: &str) -> Option<f64> {
    if text.ends_with('%') {
        python::float(text.trim_end_matches('%')).map(|percent| percent / 100.0)
    } else {
        python::float(text)
    }
}
