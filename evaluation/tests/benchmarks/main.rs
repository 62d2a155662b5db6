//! What is asked, and what answers are worth, compared with the reference programs. `tests/vectors` has what those gave; the
//! notes in its files say for which inputs.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod chart_qa;
mod mm_bench;
mod science_qa;
mod text_vqa;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use stic_evaluation::benchmarks::{Answered, Benchmark, Options, Sample};
use stic_evaluation::metric::Metric;
use stic_evaluation::published::{Form, FormKind, FoundForm, Image, Record};

/// The form whose title contains `title`.
fn form<B: Benchmark>(title: &str) -> &'static Form {
    B::FORMS.iter().find(|form| form.title.contains(title)).expect("a form with this title")
}

fn opened<B: Benchmark>(form: &'static Form, companions: Vec<PathBuf>, options: Options) -> B {
    let found = FoundForm {
        form,
        folder: PathBuf::from("folder"),
        rows: Vec::new(),
        companions,
        image_folders: Vec::new(),
        ignored: Vec::new(),
    };
    B::open(&found, options).expect("a benchmark")
}

/// Row `row` of `file`, with an image.
fn record(file: &str, row: u64, fields: &Value) -> Record {
    let fields: Map<String, Value> = fields.as_object().expect("an object").clone();
    let image = Some(Image::File(PathBuf::from("image.png")));
    Record { place: format!("{file}, row {row}"), file: file.to_owned(), row, fields, image }
}

/// The question of a row of a form without companions.
fn sample<B: Benchmark>(title: &str, row: u64, fields: &Value) -> Sample<B::Item> {
    let form = form::<B>(title);
    let file = form.rows.first().expect("a file");
    let sample =
        opened::<B>(form, Vec::new(), Options::default()).sample(form.kind, &record(file, row, fields));
    sample.expect("a good row").expect("a question")
}

/// The message about a row of a form without companions.
fn error<B: Benchmark>(title: &str, row: u64, fields: &Value) -> String {
    let form = form::<B>(title);
    let benchmark = opened::<B>(form, Vec::new(), Options::default());
    benchmark.sample(form.kind, &record("file", row, fields)).expect_err("a bad row").to_string()
}

/// The answers to `samples`, each with an image of its own.
fn answered<'a, I>(samples: &'a [Sample<I>], answers: &'a [Option<String>]) -> Vec<Answered<'a, I>> {
    let pairs = samples.iter().zip(answers);
    pairs
        .map(|(Sample { id, item }, answer)| Answered {
            id,
            cluster: id,
            item,
            answer: answer.as_deref(),
            description: None,
            replies: &[],
        })
        .collect()
}

/// The metric with this name.
fn metric(metrics: &[Metric], name: &str) -> Metric {
    metrics.iter().find(|metric| metric.name == name).expect("a metric with this name").clone()
}

/// The first of the sums of each unit that has any.
fn values(metric: &Metric) -> Vec<f64> {
    metric.units.iter().filter_map(|unit| unit.sums.as_deref()).map(|sums| sums[0]).collect()
}

/// The percentage over all units that count.
fn percentage(metric: &Metric) -> f64 {
    let values = values(metric);
    values.iter().sum::<f64>() / values.len() as f64 * 100.0
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().expect("a text")
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

fn letter(value: &Value) -> Option<char> {
    value.as_str().map(|text| text.parse().expect("a letter"))
}

fn cases(list: &Value) -> &Vec<Value> {
    let cases = list.as_array().expect("a list");
    assert!(!cases.is_empty());
    cases
}

fn vectors(json: &str) -> Value {
    serde_json::from_str(json).expect("vectors")
}

/// Writes a companion file.
fn companion(folder: &Path, name: &str, content: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content.to_string()).expect("a file");
    path
}

/// A benchmark's forms must be told apart by their files or columns, and its rows must have what `sample` reads.
fn has_sound_forms<B: Benchmark>() {
    for (place, form) in B::FORMS.iter().enumerate() {
        assert!(!form.rows.is_empty() && !form.columns.is_empty(), "{}", form.title);
        for (name, md5) in form.known {
            assert!(form.rows.contains(name), "{name}");
            assert!(md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit()), "{md5}");
        }
        for other in &B::FORMS[..place] {
            let same = form.rows == other.rows
                && form.columns == other.columns
                && form.companions.len() >= other.companions.len();
            assert!(!same, "{} is never found", form.title);
        }
    }
}

#[test]
fn forms_are_sound() {
    has_sound_forms::<stic_evaluation::benchmarks::science_qa::ScienceQa>();
    has_sound_forms::<stic_evaluation::benchmarks::text_vqa::TextVqa>();
    has_sound_forms::<stic_evaluation::benchmarks::chart_qa::ChartQa>();
    has_sound_forms::<stic_evaluation::benchmarks::mm_bench::MmBench>();
}

/// Items are stored as JSON between the steps of an evaluation.
fn assert_stored<I>(item: &I)
where
    I: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let stored = json!(item).to_string();
    assert_eq!(&serde_json::from_str::<I>(&stored).expect("an item"), item);
}

const PARQUET: FormKind = FormKind::Parquet;
