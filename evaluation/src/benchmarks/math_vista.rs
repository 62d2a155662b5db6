//! MathVista testmini: questions with one right number, list or option, most of them answered in prose.
//!
//! Rules extract the answer where it stands alone; a judge extracts the others. lmms-eval cannot score floats: it passes the
//! published precision `1.0` to `round`, which takes only integers, so that each of these answers is wrong; and VLMEvalKit
//! cannot score lists. Both are reproduced, since their published numbers contain it.

mod extract;
mod item;
mod rows;

pub use self::extract::{AnswerType, Problem, extract, most_similar, normalize, query};
pub use self::item::Item;

use stic_contract::evaluation::BenchmarkName;

use super::choice::{self, Choice};
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::judge::{Request, Step, Template, Verdict};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, KEY_FIELD, Record};
use crate::python;
use crate::python::numbers::integer_text;
use crate::scorer::{Mark, Scorer};

/// MathVista testmini.
#[derive(Debug)]
pub struct MathVista;

impl Benchmark for MathVista {
    const NAME: BenchmarkName = BenchmarkName::MathVista;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (AI4Math/MathVista)",
            rows: &["testmini-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: rows::COLUMNS,
            image: ImageSource::Column("decoded_image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's MathVista_MINI.tsv",
            rows: &["MathVista_MINI.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "choices", "answer", "question_type", "answer_type"],
            image: ImageSource::Column("image"),
            known: &[("MathVista_MINI.tsv", "f199b98e178e5a2a20e7048f5dcb0464")],
        },
        Form {
            kind: FormKind::Original,
            title: "MathVista's testmini.json",
            rows: &["testmini.json"],
            format: Format::JsonByKey,
            companions: &[],
            columns: &[KEY_FIELD, "question", "image", "choices", "answer", "question_type", "answer_type"],
            image: ImageSource::Folder(&["."]),
            known: &[("testmini.json", "84e144a7c8acbfeae49a0e5a43668dd8")],
        },
    ];
    const JUDGE_PLACEHOLDERS: &'static [&'static str] = &["query", "answer"];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// The id is the published `pid`, from 1 to 1000.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        rows::sample(form, record).map(Some)
    }

    fn image_path(record: &Record) -> Option<String> {
        super::columns::text(record, "image").ok()
    }

    fn prompt(&self, item: &Item) -> String {
        item.query()
    }

    fn judge(template: &Template, item: &Item, answer: &str, replies: &[String]) -> Option<Step<Verdict>> {
        if extract(answer, item.problem(), true).is_some() {
            return None;
        }
        let query = item.query();
        let values = [("query", query.as_str()), ("answer", answer)];
        let step = extraction(replies).map_request(|()| Request {
            messages: template.messages(&values, ""),
            temperature: 0.0,
            max_tokens: 1024,
        });
        Some(step.map_verdict(|text| Verdict::Extraction(text.to_owned())))
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let all: Vec<_> = answers.iter().map(|answer| (answer, unit(scorer, answer))).collect();
        let of = |name: &str, keep: &dyn Fn(&Item) -> bool| Metric {
            name: name.to_owned(),
            aggregate: Aggregate::Percentage,
            units: all.iter().filter(|(answer, _)| keep(answer.item)).map(|(_, unit)| unit.clone()).collect(),
        };
        let mut metrics = vec![
            of("accuracy", &|_| true),
            of("multipleChoiceAccuracy", &|item| item.answer_type == AnswerType::Choice),
            of("freeFormAccuracy", &|item| item.answer_type != AnswerType::Choice),
        ];
        metrics.extend(TASKS.iter().map(|(task, name)| of(name, &|item| item.task == *task)));
        metrics
    }
}

const TASKS: [(&str, &str); 5] = [
    ("figure question answering", "figureQuestionAnsweringAccuracy"),
    ("geometry problem solving", "geometryProblemSolvingAccuracy"),
    ("math word problem", "mathWordProblemAccuracy"),
    ("textbook question answering", "textbookQuestionAnsweringAccuracy"),
    ("visual question answering", "visualQuestionAnsweringAccuracy"),
];

/// How often a judge may reply nothing (`get_chat_response` in `lmms_eval/tasks/mathvista/mathvista_evals.py`).
const MOST_REPLIES: usize = 5;

/// What the judge extracted: its first reply that is not empty.
#[must_use]
pub fn extraction(replies: &[String]) -> Step<&str, ()> {
    match replies.iter().take(MOST_REPLIES).map(|reply| python::strip(reply)).find(|reply| !reply.is_empty())
    {
        Some(reply) => Step::Decided(reply),
        None if replies.len() < MOST_REPLIES => Step::Ask(()),
        None => Step::Failed,
    }
}

fn unit(scorer: Scorer, answer: &Answered<'_, Item>) -> Unit {
    let Some(response) = answer.answer else { return Unit::of(answer, vec![0.0, 1.0], true) };
    let reply = extraction(answer.replies).verdict();
    let mark = match scorer {
        Scorer::Llava => mark_mathvista(answer.item, response, reply),
        Scorer::LmmsEval => mark_lmms_eval(answer.item, response, reply),
        Scorer::VlmEvalKit => mark_vlmevalkit(answer.item, response, reply),
    };
    // A judge that was asked and replied nothing is not a wrong answer.
    if mark.unresolved && !answer.replies.is_empty() && reply.is_none() {
        return Unit::without_score(answer);
    }
    Unit::of(answer, vec![mark.value, 1.0], mark.unresolved)
}

/// MathVista's own `extract_answer.py --quick_extract` and `calculate_score.py --ignore_empty_extractions`.
fn mark_mathvista(item: &Item, response: &str, reply: Option<&str>) -> Mark {
    match extract(response, item.problem(), true).or_else(|| reply.map(str::to_owned)) {
        Some(extraction) => Mark::correct(
            normalize(&extraction, item.problem(), true).is_some_and(|value| value == item.answer),
        ),
        None => Mark::UNRESOLVED,
    }
}

fn mark_lmms_eval(item: &Item, response: &str, reply: Option<&str>) -> Mark {
    if item.answer_type == AnswerType::Float {
        return Mark::correct(false);
    }
    match extract(python::strip(response), item.problem(), false).or_else(|| reply.map(str::to_owned)) {
        Some(extraction) => {
            let value = normalize(&extraction, item.problem(), false);
            Mark::correct(value.is_some_and(|value| python::strip(&value) == python::strip(&item.answer)))
        }
        None => Mark::UNRESOLVED,
    }
}

/// `post_check` in `vlmeval/dataset/utils/mathvista.py`, on the answer and, unless that names an option or is right, on what
/// the judge extracted.
fn mark_vlmevalkit(item: &Item, response: &str, reply: Option<&str>) -> Mark {
    let whole = value_vlmevalkit(item, response);
    // A right 0 is false to Python, so that the judge is asked after all.
    let truthy = item.answer_type == AnswerType::Choice || python::float(&item.answer) != Some(0.0);
    let decided = truthy && (whole == Some(true) || item.answer_type == AnswerType::Choice);
    match (whole, reply) {
        (Some(correct), reply) if decided || reply.is_none() => Mark::correct(correct),
        (_, Some(reply)) => Mark::correct(value_vlmevalkit(item, reply) == Some(true)),
        (None, None) if item.answer_type == AnswerType::List => Mark::correct(false),
        _ => Mark::UNRESOLVED,
    }
}

/// Whether this text is the right answer; `None` if it is none of the right type.
fn value_vlmevalkit(item: &Item, text: &str) -> Option<bool> {
    match item.answer_type {
        AnswerType::Choice => {
            let letters = (b'A'..=b'Z').map(char::from);
            let choices: Vec<_> = letters
                .zip(&item.choices)
                .map(|(letter, text)| Choice { letter, text: Some(text) })
                .collect();
            let right =
                choices.iter().find(|choice| choice.text == Some(&item.answer)).map(|choice| choice.letter);
            choice::infer(text, &choices).map(|letter| Some(letter) == right)
        }
        AnswerType::Integer => integer_text(text).map(|value| integer_text(&item.answer) == Some(value)),
        AnswerType::Float => python::float(text).map(|value| python::float(&item.answer) == Some(value)),
        AnswerType::List => None,
    }
}
