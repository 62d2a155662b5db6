//! POPE: is there such an object in the image? Random, popular and adversarial objects.
//!
//! LLaVA's program prints the measures of each category; its published 85.9 is the mean of the three F1. lmms-eval reports
//! the accuracy over all rows, VLMEvalKit the F1 over all rows.

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::columns;
use super::yes_no::{Decided, Decision, Measure, mean_of_groups, of_group, pooled, yes_or_no_vlmevalkit};
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::scorer::Scorer;

/// POPE.
#[derive(Debug)]
pub struct Pope;

/// How the object that is asked for was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    Random,
    Popular,
    Adversarial,
}

impl Category {
    const ALL: [Self; 3] = [Self::Random, Self::Popular, Self::Adversarial];

    const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Popular => "popular",
            Self::Adversarial => "adversarial",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.name() == name)
    }
}

/// A question of POPE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    /// Whether the object is there.
    pub label: bool,
    /// One, but for VLMEvalKit's table, where rows that ask the same are one row.
    pub categories: Vec<Category>,
}

impl Benchmark for Pope {
    const NAME: BenchmarkName = BenchmarkName::Pope;
    const MAX_NEW_TOKENS: u32 = 128;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/POPE)",
            rows: &["test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question_id", "question", "answer", "category"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's POPE.tsv",
            rows: &["POPE.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer", "category"],
            image: ImageSource::Column("image"),
            known: &[("POPE.tsv", "c12f5acb142f2ef1f85a26ba2fbe41d5")],
        },
        Form {
            kind: FormKind::Original,
            title: "POPE's output/coco",
            rows: &["coco_pope_random.json", "coco_pope_popular.json", "coco_pope_adversarial.json"],
            format: Format::JsonLines,
            companions: &[],
            columns: &["question_id", "image", "text", "label"],
            image: ImageSource::Folder(&["val2014", "images", "."]),
            known: &[
                ("coco_pope_random.json", "dc9b6c41ad832c48da758cfa85b37d2c"),
                ("coco_pope_popular.json", "64902313fb995e09fa478de9741910d7"),
                ("coco_pope_adversarial.json", "3b1a278f8d61acd21b27020d0af817cb"),
            ],
        },
    ];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// The id is the category and the number in its file, `random_1`. VLMEvalKit's table has merged rows of several
    /// categories and keeps neither, so its ids are its own (`row_0`): a run on it compares only with runs on it.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let (question, label) = match form {
            FormKind::Original => ("text", "label"),
            FormKind::Parquet | FormKind::Tsv => ("question", "answer"),
        };
        let categories = match form {
            FormKind::Original => category_of_file(record)?,
            FormKind::Parquet | FormKind::Tsv => categories(record)?,
        };
        let id = match (form, categories.as_slice()) {
            (FormKind::Tsv, _) => format!("row_{}", columns::text(record, "index")?),
            (_, [category]) => format!("{}_{}", category.name(), columns::text(record, "question_id")?),
            _ => return Err(columns::error(record, "category", "holds more than one category")),
        };
        let label = match columns::text(record, label)?.to_lowercase().trim() {
            "yes" => true,
            "no" => false,
            _ => return Err(columns::error(record, label, "is neither yes nor no")),
        };
        Ok(Some(Sample { id, item: Item { question: columns::text(record, question)?, label, categories } }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "image").ok()
    }

    fn prompt(&self, item: &Item) -> String {
        format!("{}\nAnswer the question using a single word or phrase.", item.question)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let decided: Vec<_> = answers.iter().map(|answer| decide(scorer, answer)).collect();
        let mut metrics = match scorer {
            Scorer::Llava => {
                let measures = [Measure::F1, Measure::Accuracy, Measure::Precision, Measure::Recall];
                measures.map(|measure| mean_of_groups(measure, Category::ALL.len(), &decided)).to_vec()
            }
            Scorer::LmmsEval => Measure::ALL.map(|measure| pooled(measure, "", &decided)).to_vec(),
            Scorer::VlmEvalKit => {
                let measures = [Measure::F1, Measure::Accuracy, Measure::Precision, Measure::Recall];
                measures.map(|measure| pooled(measure, "", &decided)).to_vec()
            }
        };
        if scorer != Scorer::VlmEvalKit {
            metrics.push(yes_ratio(scorer, &decided));
        }
        for (group, category) in Category::ALL.into_iter().enumerate() {
            metrics.extend(Measure::ALL.map(|measure| of_group(measure, category.name(), group, &decided)));
        }
        metrics
    }
}

fn categories(record: &Record) -> Result<Vec<Category>> {
    let text = columns::text(record, "category")?;
    let unknown =
        || columns::error(record, "category", "holds another category than random, popular and adversarial");
    text.split(',').map(|name| Category::from_name(name.trim()).ok_or_else(unknown)).collect()
}

/// The original rows say their category only by the name of their file.
fn category_of_file(record: &Record) -> Result<Vec<Category>> {
    let names = |category: &Category| record.file == format!("coco_pope_{}.json", category.name());
    let category = Category::ALL.into_iter().find(names);
    category
        .map(|category| vec![category])
        .ok_or_else(|| columns::error(record, "label", "is in a file of no category"))
}

fn decide<'a>(scorer: Scorer, answer: &'a Answered<'a, Item>) -> Decided<'a, Item> {
    let answered = answer.answer.and_then(|text| match scorer {
        Scorer::Llava => Some(yes_or_no_llava(text)),
        Scorer::LmmsEval => yes_or_no_lmms_eval(text),
        Scorer::VlmEvalKit => yes_or_no_vlmevalkit(text),
    });
    let missing_is_negative = scorer != Scorer::LmmsEval;
    let groups = answer.item.categories.iter().map(|category| *category as usize).collect();
    Decided { answer, decision: Decision { truth: answer.item.label, answered, missing_is_negative }, groups }
}

/// What was answered by LLaVA's rule (`eval_pope` in `llava/eval/eval_pope.py`, and POPE's `evaluate.py`): no if a word
/// before the first full stop is `No`, `no` or `not`, else yes. So an empty answer is a yes.
#[must_use]
pub fn yes_or_no_llava(answer: &str) -> bool {
    let sentence = answer.split('.').next().unwrap_or(answer).replace(',', "");
    !sentence.split(' ').any(|word| matches!(word, "No" | "not" | "no"))
}

/// What was answered by lmms-eval's rule (`pope_process_results` in `lmms_eval/tasks/pope/utils.py`): the whole answer is
/// the word.
#[must_use]
pub fn yes_or_no_lmms_eval(answer: &str) -> Option<bool> {
    match python::strip(&answer.to_lowercase()) {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// How often yes was answered; for lmms-eval, how often yes was right (`pope_aggregate_yes_ratio` counts the labels).
fn yes_ratio(scorer: Scorer, decided: &[Decided<'_, Item>]) -> Metric {
    let units = decided.iter().map(|decided| {
        let Decision { truth, answered, .. } = decided.decision;
        let yes = if scorer == Scorer::LmmsEval { truth } else { answered == Some(true) };
        Unit::of(decided.answer, vec![f64::from(u8::from(yes)), 1.0], answered.is_none())
    });
    Metric { name: "yesRatio".to_owned(), aggregate: Aggregate::Percentage, units: units.collect() }
}
