//! LLaVA-Bench in the wild: a judge gives the model's answer and GPT-4's a score each; the sums are compared.
//!
//! Where a review holds no scores, the references average -1 for both answers. Here such an answer has no score: it counts in
//! no sum and is reported. [`relative_score`] computes what LLaVA prints, failed reviews included.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::columns;
use super::{Answered, Benchmark, Options, Sample};
use crate::error::{Error, Result};
use crate::judge::{Request, Step, Template, Verdict};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::python::numbers::round;
use crate::scorer::Scorer;

const CONTEXT: &str = "context.jsonl";
const REFERENCE: &str = "answers_gpt4.jsonl";

/// LLaVA-Bench, with what the original form keeps beside its questions.
#[derive(Debug)]
pub struct LlavaBench {
    /// By image.
    captions: HashMap<String, String>,
    /// By question.
    references: HashMap<u64, String>,
}

/// A question of LLaVA-Bench.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    /// `conv`, `detail` or `complex`.
    pub category: String,
    /// What is in the image, for a judge that does not see it.
    pub context: String,
    /// GPT-4's answer.
    pub reference: String,
}

impl Benchmark for LlavaBench {
    const NAME: BenchmarkName = BenchmarkName::LlavaBench;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/llava-bench-in-the-wild)",
            rows: &["train-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question_id", "question", "gpt_answer", "caption", "category"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's LLaVABench.tsv",
            rows: &["LLaVABench.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "gpt4_ans", "caption", "category"],
            image: ImageSource::Column("image"),
            known: &[("LLaVABench.tsv", "d382a093f749a697820d3dadd61c8428")],
        },
        Form {
            kind: FormKind::Original,
            title: "the files of liuhaotian/llava-bench-in-the-wild",
            rows: &["questions.jsonl"],
            format: Format::JsonLines,
            companions: &[CONTEXT, REFERENCE],
            columns: &["question_id", "image", "text", "category"],
            image: ImageSource::Folder(&["images"]),
            known: &[],
        },
    ];
    const JUDGE_PLACEHOLDERS: &'static [&'static str] = &["context", "question", "reference", "answer"];
    type Item = Item;

    fn open(found: &FoundForm, _options: Options) -> Result<Self> {
        let contexts = found.companion(CONTEXT).map(lines::<Context>).transpose()?.unwrap_or_default();
        let references = found.companion(REFERENCE).map(lines::<Reference>).transpose()?.unwrap_or_default();
        Ok(Self {
            captions: contexts.into_iter().map(|context| (context.image, context.caption.join())).collect(),
            references: references
                .into_iter()
                .map(|reference| (reference.question_id, reference.text))
                .collect(),
        })
    }

    /// The id is the number of the question, from 0 to 59.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let column = |name| columns::text(record, name);
        let (id, question, context, reference) = match form {
            FormKind::Parquet => ("question_id", "question", caption(record)?, column("gpt_answer")?),
            FormKind::Tsv => ("index", "question", column("caption")?, column("gpt4_ans")?),
            FormKind::Original => {
                let context = self.captions.get(&column("image")?);
                let context =
                    context.ok_or_else(|| columns::error(record, "image", "is not in context.jsonl"))?;
                let number = column("question_id")?.parse().ok();
                let reference = number.and_then(|number: u64| self.references.get(&number));
                let reference = reference
                    .ok_or_else(|| columns::error(record, "question_id", "is not in answers_gpt4.jsonl"))?;
                ("question_id", "text", context.clone(), reference.clone())
            }
        };
        let category = column("category")?;
        if !CATEGORIES.contains(&category.as_str()) {
            return Err(columns::error(record, "category", "is none of conv, detail and complex"));
        }
        Ok(Some(Sample {
            id: column(id)?,
            item: Item { question: column(question)?, category, context, reference },
        }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "image").ok()
    }

    fn prompt(&self, item: &Item) -> String {
        item.question.clone()
    }

    fn judge(template: &Template, item: &Item, answer: &str, replies: &[String]) -> Option<Step<Verdict>> {
        let values = [
            ("context", item.context.as_str()),
            ("question", item.question.as_str()),
            ("reference", item.reference.as_str()),
            ("answer", answer),
        ];
        let step = review(Scorer::Llava, replies).map_request(|()| Request {
            messages: template.messages(&values, ""),
            temperature: 0.2,
            max_tokens: 1024,
        });
        Some(step.map_verdict(|[reference, model]| Verdict::Scores { reference, model }))
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let all: Vec<_> = answers.iter().map(|answer| (answer, unit(scorer, answer))).collect();
        // VLMEvalKit does not round the means.
        let aggregate =
            if scorer == Scorer::VlmEvalKit { Aggregate::Percentage } else { Aggregate::RatioOfMeans };
        let of = |name: &str, category: Option<&str>| Metric {
            name: name.to_owned(),
            aggregate,
            units: all
                .iter()
                .filter(|(answer, _)| category.is_none_or(|category| answer.item.category == category))
                .map(|(_, unit)| unit.clone())
                .collect(),
        };
        [of("overall", None)]
            .into_iter()
            .chain(CATEGORIES.map(|category| of(category, Some(category))))
            .collect()
    }
}

const CATEGORIES: [&str; 3] = ["conv", "detail", "complex"];

#[derive(Deserialize)]
struct Context {
    image: String,
    caption: Caption,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Caption {
    One(String),
    Several(Vec<String>),
}

impl Caption {
    fn join(self) -> String {
        match self {
            Self::One(caption) => caption,
            Self::Several(captions) => captions.join("\n"),
        }
    }
}

#[derive(Deserialize)]
struct Reference {
    question_id: u64,
    text: String,
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let error = |message: String| Error::File { file: path.to_owned(), message };
    let file = File::open(path).map_err(|source| error(source.to_string()))?;
    let mut values = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| error(source.to_string()))?;
        if !line.trim().is_empty() {
            let value = serde_json::from_str(&line);
            values.push(value.map_err(|source| {
                error(format!("line {}: {source}. Use the published file.", number + 1))
            })?);
        }
    }
    Ok(values)
}

fn caption(record: &Record) -> Result<String> {
    match columns::texts(record, "caption") {
        Ok(captions) if !captions.is_empty() => Ok(captions.join("\n")),
        _ => columns::text(record, "caption"),
    }
}

/// `[reference, model]`, after the only request there is.
fn review(scorer: Scorer, replies: &[String]) -> Step<[f64; 2], ()> {
    let Some(reply) = replies.first() else { return Step::Ask(()) };
    let scores = match scorer {
        Scorer::Llava | Scorer::VlmEvalKit => parse_scores(reply),
        Scorer::LmmsEval => parse_scores_lmms_eval(reply),
    };
    scores.filter(|scores| scores.iter().all(|score| score.is_finite())).map_or(Step::Failed, Step::Decided)
}

fn unit(scorer: Scorer, answer: &Answered<'_, Item>) -> Unit {
    if answer.answer.is_none() {
        return Unit::without_score(answer);
    }
    let Some([reference, model]) = review(scorer, answer.replies).verdict() else {
        return Unit::without_score(answer);
    };
    let sums =
        if scorer == Scorer::VlmEvalKit { vec![model, reference] } else { vec![model, reference, 1.0] };
    Unit::of(answer, sums, false)
}

/// The two scores of a review, GPT-4's first (`parse_score` in `llava/eval/eval_gpt_review_bench.py`; VLMEvalKit has the same
/// rule): the first line, with commas as spaces, is two floats and one space. `None` where LLaVA takes -1 for both.
#[must_use]
pub fn parse_scores(review: &str) -> Option<[f64; 2]> {
    let line = review.split('\n').next().unwrap_or(review).replace(',', " ");
    let (reference, model) = line.split_once(' ')?;
    Some([python::float(reference).filter(|_| !model.contains(' '))?, python::float(model)?])
}

/// As above by lmms-eval's rule (`_parse_comparative_scores` in `lmms_eval/tasks/llava-in-the-wild/utils.py`): the first two
/// numbers of the first line that is not blank.
#[must_use]
pub fn parse_scores_lmms_eval(review: &str) -> Option<[f64; 2]> {
    let line = python::strip(review).split('\n').next()?;
    let mut numbers = numbers(line);
    Some([numbers.next()?, numbers.next()?])
}

/// What `-?\d+(?:\.\d+)?` finds.
fn numbers(line: &str) -> impl Iterator<Item = f64> {
    let chars: Vec<char> = line.chars().collect();
    let digits =
        move |chars: &[char]| chars.iter().take_while(|char| python::decimal(**char).is_some()).count();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(rest) = chars.get(at..).filter(|rest| !rest.is_empty()) {
            let sign = usize::from(rest.first() == Some(&'-'));
            let whole = digits(rest.get(sign..).unwrap_or_default());
            if whole == 0 {
                at += 1;
                continue;
            }
            let point = sign + whole;
            let places = match rest.get(point) {
                Some('.') => digits(rest.get(point + 1..).unwrap_or_default()),
                _ => 0,
            };
            let end = if places > 0 { point + 1 + places } else { point };
            at += end;
            return python::float(&rest.iter().take(end).collect::<String>());
        }
        None
    })
}

/// What LLaVA prints of reviews (`summarize_gpt_review.py`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RelativeScore {
    /// The model's score in percent of the reference's.
    pub relative: f64,
    /// Ten times the mean of the reference's scores.
    pub reference: f64,
    /// Ten times the mean of the model's scores.
    pub model: f64,
}

/// The summary of reviews as LLaVA prints it, where a failed review is `[-1, -1]`; `None` without reviews.
#[must_use]
pub fn relative_score(reviews: &[[f64; 2]]) -> Option<RelativeScore> {
    let count = u32::try_from(reviews.len()).ok().filter(|count| *count > 0)?;
    let mean =
        |scores: fn(&[f64; 2]) -> f64| round(reviews.iter().map(scores).sum::<f64>() / f64::from(count), 3);
    let (reference, model) = (mean(|review| review[0]), mean(|review| review[1]));
    Some(RelativeScore {
        relative: round(model / reference * 100.0, 1),
        reference: round(reference * 10.0, 1),
        model: round(model * 10.0, 1),
    })
}
