//! MM-Vet: open questions that combine capabilities; a judge grades each answer between 0 and 1.
//!
//! Where the judge gives no grade, the references count 0. Here such an answer has no score and is reported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::columns;
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::judge::{Request, Step, Template, Verdict};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, KEY_FIELD, Record};
use crate::python;
use crate::python::numbers::numpy_round;
use crate::scorer::Scorer;

/// MM-Vet.
#[derive(Debug)]
pub struct MmVet;

/// A question of MM-Vet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    /// The right answer, with `<AND>` and `<OR>` between parts.
    pub answer: String,
    /// Some of `rec`, `ocr`, `know`, `gen`, `spat` and `math`.
    pub capabilities: Vec<String>,
}

impl Benchmark for MmVet {
    const NAME: BenchmarkName = BenchmarkName::MmVet;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/MMVet)",
            rows: &["test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question_id", "question", "answer", "capability"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's MMVet.tsv",
            rows: &["MMVet.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer", "category"],
            image: ImageSource::Column("image"),
            known: &[("MMVet.tsv", "748aa6d4aa9d4de798306a63718455e3")],
        },
        Form {
            kind: FormKind::Original,
            title: "mm-vet.json",
            rows: &["mm-vet.json"],
            format: Format::JsonByKey,
            companions: &[],
            columns: &[KEY_FIELD, "imagename", "question", "answer", "capability"],
            image: ImageSource::Folder(&["images"]),
            known: &[],
        },
    ];
    const JUDGE_PLACEHOLDERS: &'static [&'static str] = &["question", "reference", "answer"];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// The id is the published one, `v1_0`; VLMEvalKit's table has only its number.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let column = |name| columns::text(record, name);
        let (id, capabilities) = match form {
            FormKind::Parquet => (column("question_id")?, split(&column("capability")?)),
            FormKind::Tsv => (column("index")?, split(&column("category")?)),
            FormKind::Original => (column(KEY_FIELD)?, columns::texts(record, "capability")?),
        };
        let id = if id.starts_with("v1_") { id } else { format!("v1_{id}") };
        let item = Item { question: column("question")?, answer: column("answer")?, capabilities };
        Ok(Some(Sample { id, item }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "imagename").ok()
    }

    fn prompt(&self, item: &Item) -> String {
        item.question.clone()
    }

    fn judge(template: &Template, item: &Item, answer: &str, replies: &[String]) -> Option<Step<Verdict>> {
        let reference = item.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ");
        let values =
            [("question", item.question.as_str()), ("reference", reference.as_str()), ("answer", answer)];
        let step = grade(replies).map_request(|attempt| Request {
            messages: template.messages(&values, if attempt.retry { RETRY_SUFFIX } else { "" }),
            temperature: attempt.temperature,
            max_tokens: 3,
        });
        Some(step.map_verdict(Verdict::Score))
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let all: Vec<_> = answers.iter().map(|answer| (answer, unit(scorer, answer))).collect();
        let of = |name: &str, keep: &dyn Fn(&Item) -> bool| Metric {
            name: name.to_owned(),
            aggregate: Aggregate::Percentage,
            units: all.iter().filter(|(answer, _)| keep(answer.item)).map(|(_, unit)| unit.clone()).collect(),
        };
        let capabilities = CAPABILITIES
            .map(|name| of(name, &|item| item.capabilities.iter().any(|capability| capability == name)));
        [of("total", &|_| true)].into_iter().chain(capabilities).collect()
    }
}

const CAPABILITIES: [&str; 6] = ["rec", "ocr", "know", "gen", "spat", "math"];

/// What asks for a digit after a reply that was none.
const RETRY_SUFFIX: &str = "\nPredict the correctness of the answer (digit): ";

/// How often the judge is asked again. The last reply is not read.
const MOST_RETRIES: usize = 5;

fn split(capabilities: &str) -> Vec<String> {
    capabilities.split(',').map(|capability| capability.trim().to_owned()).collect()
}

/// How to ask the judge next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt {
    pub temperature: f64,
    /// Whether the suffix that asks for a digit is added.
    pub retry: bool,
}

/// The exchange of `mm-vet_evaluator.py`: at temperature 0, again with the suffix, and then half a degree warmer each time.
/// After five more requests it is over, whatever the sixth reply is; MM-Vet takes 0 there.
#[must_use]
pub fn grade(replies: &[String]) -> Step<f64, Attempt> {
    if let Some(grade) = replies.iter().take(MOST_RETRIES).find_map(|reply| parse_grade(reply)) {
        return Step::Decided(grade);
    }
    let retries = u32::try_from(replies.len()).unwrap_or(u32::MAX);
    if replies.len() > MOST_RETRIES {
        return Step::Failed;
    }
    Step::Ask(Attempt { temperature: 0.5 * f64::from(retries.saturating_sub(1)), retry: retries > 0 })
}

/// What stands before the first space is a float between 0 and 1.
#[must_use]
pub fn parse_grade(reply: &str) -> Option<f64> {
    let word = reply.split(' ').next().unwrap_or(reply);
    python::float(word).filter(|grade| (0.0..=1.0).contains(grade))
}

fn unit(scorer: Scorer, answer: &Answered<'_, Item>) -> Unit {
    let grade = match scorer {
        Scorer::Llava => grade(answer.replies).verdict(),
        // `mmvet_process_results` in `lmms_eval/tasks/mmvet/utils.py` trims the reply first.
        Scorer::LmmsEval => answer.replies.iter().find_map(|reply| parse_grade(python::strip(reply))),
        // `MMVet_auxeval` in `vlmeval/dataset/utils/mmvet.py` reads the whole reply.
        Scorer::VlmEvalKit => {
            let read = |reply: &String| python::float(reply).filter(|grade| (0.0..=1.0).contains(grade));
            answer.replies.iter().find_map(read)
        }
    };
    match (answer.answer, grade) {
        (Some(_), Some(grade)) => Unit::of(answer, vec![grade, 1.0], false),
        _ => Unit::without_score(answer),
    }
}

/// What MM-Vet writes of one run (`export_result`): the mean of each capability and the `total`, in percent, to one decimal
/// as NumPy rounds. A question without grade counts as 0 there.
#[must_use]
pub fn capability_scores(grades: &[(f64, &[&str])]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::<&str, (f64, f64)>::new();
    for (grade, capabilities) in grades {
        for name in capabilities.iter().copied().chain(["total"]) {
            let (sum, count) = sums.entry(name).or_default();
            *sum += grade;
            *count += 1.0;
        }
    }
    sums.into_iter()
        .map(|(name, (sum, count))| (name.to_owned(), numpy_round(sum / count * 100.0, 1)))
        .collect()
}
