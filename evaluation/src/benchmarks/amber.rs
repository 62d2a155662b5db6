//! AMBER's yes/no part: do objects exist, have attributes, and touch?
//!
//! Precision, recall and F1 are about the answer no, that is, about questions after what is not in the image. The generative
//! part, and with it the AMBER score `(100 - CHAIR + F1) / 2`, needs word vectors and a tagger, and is not scored here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::columns;
use super::yes_no::{Decided, Decision, Measure, mean_of_groups, of_group, pooled, yes_or_no_vlmevalkit};
use super::{Answered, Benchmark, Options, Sample};
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::scorer::Scorer;

const ANNOTATIONS: &str = "annotations.json";

/// AMBER, with the right answers of the original files by id.
#[derive(Debug)]
pub struct Amber {
    annotations: BTreeMap<u64, Truth>,
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    Existence,
    Attribute,
    Relation,
}

impl Dimension {
    const ALL: [Self; 3] = [Self::Existence, Self::Attribute, Self::Relation];

    const fn name(self) -> &'static str {
        match self {
            Self::Existence => "existence",
            Self::Attribute => "attribute",
            Self::Relation => "relation",
        }
    }

    /// From the type in the annotations.
    fn from_type(name: &str) -> Option<Self> {
        match name {
            "discriminative-hallucination" => Some(Self::Existence),
            "discriminative-attribute-state"
            | "discriminative-attribute-number"
            | "discriminative-attribute-action" => Some(Self::Attribute),
            "discriminative-relation" | "relation" => Some(Self::Relation),
            _ => None,
        }
    }
}

/// A yes/no question of AMBER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    pub dimension: Dimension,
    /// Whether the right answer is yes.
    pub yes: bool,
}

#[derive(Debug, Clone, Copy)]
struct Truth {
    dimension: Dimension,
    yes: bool,
}

impl Benchmark for Amber {
    const NAME: BenchmarkName = BenchmarkName::Amber;
    const MAX_NEW_TOKENS: u32 = 128;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's AMBER.tsv",
            rows: &["AMBER.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer", "category"],
            image: ImageSource::Column("image"),
            known: &[("AMBER.tsv", "970d94c0410916166e0a76ba75da7934")],
        },
        Form {
            kind: FormKind::Original,
            title: "AMBER's data folder",
            rows: &["query_discriminative.json"],
            format: Format::JsonArray,
            companions: &[ANNOTATIONS],
            columns: &["id", "image", "query"],
            image: ImageSource::Folder(&["image", "images", "."]),
            known: &[
                ("query_discriminative.json", "6736c49ff6438e1092a3a4068fdc3f94"),
                (ANNOTATIONS, "e5c5a3f03fd2fc4683ab6e60144ef1c1"),
            ],
        },
    ];
    type Item = Item;

    fn open(found: &FoundForm, _options: Options) -> Result<Self> {
        let annotations = found.companion(ANNOTATIONS).map(read_annotations).transpose()?.unwrap_or_default();
        Ok(Self { annotations })
    }

    /// The id is the published one, from 1005 on.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let (id, question) = match form {
            FormKind::Tsv => ("index", "question"),
            FormKind::Original | FormKind::Parquet => ("id", "query"),
        };
        let (number, question) = (columns::text(record, id)?, columns::text(record, question)?);
        let truth = match form {
            FormKind::Tsv => truth_of_row(record)?,
            FormKind::Original | FormKind::Parquet => {
                let truth = number.parse().ok().and_then(|id: u64| self.annotations.get(&id));
                *truth
                    .ok_or_else(|| columns::error(record, id, "is no yes/no question of annotations.json"))?
            }
        };
        Ok(Some(Sample { id: number, item: Item { question, dimension: truth.dimension, yes: truth.yes } }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "image").ok()
    }

    /// With VLMEvalKit's suffix; the authors only ask for answers that are `Yes` or `No`.
    fn prompt(&self, item: &Item) -> String {
        format!("{}\nPlease answer yes or no.", item.question)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let decided: Vec<_> = answers.iter().map(|answer| decide(scorer, answer)).collect();
        if scorer == Scorer::VlmEvalKit {
            let mean = mean_of_groups(Measure::Accuracy, Dimension::ALL.len(), &decided);
            let groups = Dimension::ALL.into_iter().enumerate();
            let groups = groups
                .map(|(group, dimension)| of_group(Measure::Accuracy, dimension.name(), group, &decided));
            return [mean].into_iter().chain(groups).collect();
        }
        let mut metrics = Measure::ALL.map(|measure| pooled(measure, "", &decided)).to_vec();
        for (group, dimension) in Dimension::ALL.into_iter().enumerate() {
            metrics.extend(Measure::ALL.map(|measure| of_group(measure, dimension.name(), group, &decided)));
        }
        metrics
    }
}

fn read_annotations(path: &std::path::Path) -> Result<BTreeMap<u64, Truth>> {
    #[derive(Deserialize)]
    struct Annotation {
        id: u64,
        r#type: String,
        /// A list of objects where the question is generative.
        truth: serde_json::Value,
    }
    let error = |message: String| Error::File { file: path.to_owned(), message };
    let file = File::open(path).map_err(|source| error(source.to_string()))?;
    let all: Vec<Annotation> = serde_json::from_reader(BufReader::new(file))
        .map_err(|source| error(format!("{source}. Use the published file.")))?;
    let truths = all.into_iter().filter_map(|annotation| {
        let dimension = Dimension::from_type(&annotation.r#type)?;
        Some((annotation.id, Truth { dimension, yes: annotation.truth == "yes" }))
    });
    Ok(truths.collect())
}

fn truth_of_row(record: &Record) -> Result<Truth> {
    let dimension = Dimension::from_type(&columns::text(record, "category")?)
        .ok_or_else(|| columns::error(record, "category", "is none of AMBER's types of yes/no questions"))?;
    match columns::text(record, "answer")?.to_lowercase().as_str() {
        "yes" => Ok(Truth { dimension, yes: true }),
        "no" => Ok(Truth { dimension, yes: false }),
        _ => Err(columns::error(record, "answer", "is neither yes nor no")),
    }
}

fn decide<'a>(scorer: Scorer, answer: &'a Answered<'a, Item>) -> Decided<'a, Item> {
    let yes = answer.answer.and_then(|text| match scorer {
        Scorer::Llava => yes_or_no_amber(text),
        Scorer::LmmsEval => yes_or_no_lmms_eval(text),
        Scorer::VlmEvalKit => yes_or_no_vlmevalkit(text),
    });
    let decision =
        Decision { truth: !answer.item.yes, answered: yes.map(|yes| !yes), missing_is_negative: true };
    Decided { answer, decision, groups: vec![answer.item.dimension as usize] }
}

/// What was answered by the authors' rule (`inference.py`): nothing but `Yes` or `No` is an answer.
#[must_use]
pub fn yes_or_no_amber(answer: &str) -> Option<bool> {
    match answer {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// What was answered by lmms-eval's rule (`process_discriminative_task` in `lmms_eval/tasks/amber_g/utils.py`): yes if it
/// contains `yes`, else no if it contains `no`, be it within `not` or `know`. lmms-eval publishes only the generative part.
#[must_use]
pub fn yes_or_no_lmms_eval(answer: &str) -> Option<bool> {
    let answer = answer.to_lowercase();
    match (answer.contains("yes"), answer.contains("no")) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}
