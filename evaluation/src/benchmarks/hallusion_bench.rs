//! HallusionBench: yes/no questions about figures and altered figures, each asked of several figures.
//!
//! The benchmark's own program (`evaluation.py`, `utils.py` in tianyi-lab/HallusionBench) and lmms-eval have a judge compare
//! the answer with the reference; lmms-eval asks only the questions that have a figure. VLMEvalKit looks for yes or no.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::columns;
use super::yes_no::yes_or_no_vlmevalkit;
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::judge::{Correctness, Request, Step, Template, Verdict};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::scorer::Scorer;

/// HallusionBench.
#[derive(Debug)]
pub struct HallusionBench;

/// A question of HallusionBench.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// `VD`, where the question needs the figure, or `VS`, where the figure supplements it.
    pub category: String,
    pub subcategory: String,
    pub set: String,
    /// `0` is the original figure, or no figure where the category is `VS`.
    pub figure: String,
    pub question_number: String,
    pub question: String,
    pub right: bool,
    /// The right answer as a sentence, for the judge.
    pub details: String,
}

impl Item {
    fn has_figure(&self) -> bool {
        !(self.category == "VS" && self.figure == "0")
    }

    fn set_id(&self) -> String {
        format!("{}_{}_{}", self.category, self.subcategory, self.set)
    }
}

impl Benchmark for HallusionBench {
    const NAME: BenchmarkName = BenchmarkName::HallusionBench;
    const MAX_NEW_TOKENS: u32 = 128;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/HallusionBench)",
            rows: &["image-*.parquet", "non_image-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: COLUMNS,
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's HallusionBench.tsv",
            rows: &["HallusionBench.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer"],
            image: ImageSource::Column("image"),
            known: &[("HallusionBench.tsv", "0c23ac0dc9ef46832d7a24504f2a0c7c")],
        },
        Form {
            kind: FormKind::Original,
            title: "HallusionBench.json",
            rows: &["HallusionBench.json"],
            format: Format::JsonArray,
            companions: &[],
            columns: COLUMNS,
            image: ImageSource::Folder(&["hallusion_bench", "images", "."]),
            known: &[("HallusionBench.json", "6ea24532854cab043a6464cff8a194ad")],
        },
    ];
    const JUDGE_PLACEHOLDERS: &'static [&'static str] = &["question", "reference", "answer"];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// The id is what VLMEvalKit's index is: `VS_chart_1_0_1_0`, of the category, the subcategory, the kind of visual input,
    /// the set, the figure and the question.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let column = |name| columns::text(record, name);
        let (id, right) = match form {
            FormKind::Tsv => (column("index")?, truth(record, "answer")?),
            FormKind::Parquet | FormKind::Original => {
                let names = ["category", "subcategory", "visual_input", "set_id", "figure_id", "question_id"];
                (
                    names.map(column).into_iter().collect::<Result<Vec<_>>>()?.join("_"),
                    truth(record, "gt_answer")?,
                )
            }
        };
        let parts: Vec<_> = id.split('_').map(str::to_owned).collect();
        let Ok([category, subcategory, _, set, figure, question_number]) = <[String; 6]>::try_from(parts)
        else {
            return Err(columns::error(record, "index", "is not of six parts such as VS_chart_1_0_1_0"));
        };
        let details = columns::optional_text(record, "gt_answer_details")?;
        let details = details.unwrap_or_else(|| if right { "Yes" } else { "No" }.to_owned());
        let question = column("question")?;
        Ok(Some(Sample {
            id,
            item: Item { category, subcategory, set, figure, question_number, question, right, details },
        }))
    }

    fn image_path(record: &Record) -> Option<String> {
        let path = columns::text(record, "filename").ok()?;
        Some(path.strip_prefix("./").unwrap_or(&path).to_owned())
    }

    /// The question as it is; most ask for yes or no themselves.
    fn prompt(&self, item: &Item) -> String {
        item.question.clone()
    }

    fn judge(template: &Template, item: &Item, answer: &str, replies: &[String]) -> Option<Step<Verdict>> {
        let values =
            [("question", item.question.as_str()), ("reference", item.details.as_str()), ("answer", answer)];
        let step = correctness(replies).map_request(|()| Request {
            messages: template.messages(&values, ""),
            temperature: 1.0,
            max_tokens: 16,
        });
        Some(step.map_verdict(Verdict::Correctness))
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let asked = |answer: &&Answered<'_, Item>| scorer == Scorer::Llava || answer.item.has_figure();
        let marked: Vec<_> = answers.iter().filter(asked).map(|answer| mark(scorer, answer)).collect();
        let all = "aAcc".to_owned();
        let questions = marked.iter().map(Marked::unit).collect();
        let figures = marked.iter().filter(|marked| marked.answer.item.has_figure());
        let mut metrics = vec![
            Metric { name: all, aggregate: Aggregate::Percentage, units: questions },
            grouped("fAcc", figures, |item| format!("{}_{}", item.set_id(), item.figure)),
            grouped("qAcc", marked.iter(), |item| format!("{}_{}", item.set_id(), item.question_number)),
        ];
        for (prefix, category) in [("visualDependent", "VD"), ("visualSupplement", "VS")] {
            let members = marked.iter().filter(|marked| marked.answer.item.category == category);
            let name = format!("{prefix}AAcc");
            metrics.push(Metric {
                name,
                aggregate: Aggregate::Percentage,
                units: members.map(Marked::unit).collect(),
            });
        }
        metrics
    }
}

const COLUMNS: &[&str] = &[
    "category",
    "subcategory",
    "visual_input",
    "set_id",
    "figure_id",
    "question_id",
    "question",
    "gt_answer",
];

fn truth(record: &Record, column: &str) -> Result<bool> {
    match columns::text(record, column)?.to_lowercase().as_str() {
        "1" | "yes" => Ok(true),
        "0" | "no" => Ok(false),
        _ => Err(columns::error(record, column, "is none of 0, 1, no and yes")),
    }
}

/// What the judge replied (`evaluate_by_chatgpt`): one request, and any reply decides.
#[must_use]
pub fn correctness(replies: &[String]) -> Step<Correctness, ()> {
    let Some(reply) = replies.first().map(|reply| reply.to_lowercase()) else { return Step::Ask(()) };
    Step::Decided(match (reply.contains("incorrect"), reply.contains("correct")) {
        (true, _) => Correctness::Incorrect,
        (false, true) => Correctness::Correct,
        (false, false) => Correctness::Unclear,
    })
}

/// An answer and whether it is right; `None` where a judge has to say, and has not.
struct Marked<'a> {
    answer: &'a Answered<'a, Item>,
    right: Option<bool>,
    unresolved: bool,
}

impl Marked<'_> {
    fn unit(&self) -> Unit {
        Unit {
            id: self.answer.id.to_owned(),
            cluster: self.answer.item.set_id(),
            sums: self.right.map(|right| vec![f64::from(u8::from(right)), 1.0]),
            unresolved: self.unresolved,
        }
    }
}

fn mark<'a>(scorer: Scorer, answer: &'a Answered<'a, Item>) -> Marked<'a> {
    let item = answer.item;
    let Some(text) = answer.answer else { return Marked { answer, right: Some(false), unresolved: true } };
    if scorer == Scorer::VlmEvalKit {
        let answered = yes_or_no_vlmevalkit(text);
        return Marked { answer, right: Some(answered == Some(item.right)), unresolved: answered.is_none() };
    }
    // `assign_correctness`: where nothing is shown, not to know is right.
    let right = correctness(answer.replies).verdict().map(|correctness| match correctness {
        Correctness::Correct => true,
        Correctness::Incorrect => false,
        Correctness::Unclear => !item.has_figure(),
    });
    Marked { answer, right, unresolved: false }
}

/// A unit for each group, right if all its answers are. A group with a wrong answer is wrong whatever a judge would have said
/// about the others. All units of a set are dependent: its figures and questions are asked of each other.
fn grouped<'a>(
    name: &str,
    marked: impl Iterator<Item = &'a Marked<'a>>,
    key: impl Fn(&Item) -> String,
) -> Metric {
    let mut order = BTreeMap::new();
    let mut units: Vec<Unit> = Vec::new();
    for marked in marked {
        let id = key(marked.answer.item);
        let position = *order.entry(id.clone()).or_insert(units.len());
        let own = Unit { id, ..marked.unit() };
        match units.get_mut(position) {
            Some(unit) => {
                unit.sums = all_of(unit.sums.take(), own.sums);
                unit.unresolved |= own.unresolved;
            }
            None => units.push(own),
        }
    }
    Metric { name: name.to_owned(), aggregate: Aggregate::Percentage, units }
}

fn all_of(one: Option<Vec<f64>>, other: Option<Vec<f64>>) -> Option<Vec<f64>> {
    let wrong = |sums: &Option<Vec<f64>>| sums.as_ref().is_some_and(|sums| sums.first() == Some(&0.0));
    if wrong(&one) || wrong(&other) { Some(vec![0.0, 1.0]) } else { one.and(other) }
}
