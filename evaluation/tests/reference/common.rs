//! Reading cases, and scores of metrics.

use serde::de::DeserializeOwned;
use serde_json::Value;
use stic_evaluation::benchmarks::{Answered, Benchmark};
use stic_evaluation::metric::{Aggregate, Metric, Unit};
use stic_evaluation::scorer::Scorer;

pub(crate) fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The cases of one section; there is at least one.
pub(crate) fn cases(file: &str, section: &str) -> Vec<Value> {
    let cases = vectors(file)[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

pub(crate) fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} of {case}"))
}

pub(crate) fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map(|items| items.iter().map(|item| item.as_str().unwrap().to_owned()).collect())
        .unwrap_or_default()
}

/// A row with an answer, and what a judge replied.
pub(crate) struct Row<I> {
    pub(crate) id: String,
    pub(crate) item: I,
    pub(crate) answer: Option<String>,
    pub(crate) replies: Vec<String>,
}

pub(crate) fn metrics<B: Benchmark>(scorer: Scorer, rows: &[Row<B::Item>]) -> Vec<Metric> {
    let answered: Vec<_> = rows
        .iter()
        .map(|row| Answered {
            id: &row.id,
            cluster: &row.id,
            item: &row.item,
            answer: row.answer.as_deref(),
            description: None,
            replies: &row.replies,
        })
        .collect();
    B::metrics(scorer, &answered)
}

pub(crate) fn metric<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
    let names: Vec<_> = metrics.iter().map(|metric| &metric.name).collect();
    metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is none of {names:?}"))
}

/// The score as [`Aggregate`] defines it; `None` where it divides by zero.
pub(crate) fn score(metric: &Metric) -> Option<f64> {
    let counted: Vec<&Vec<f64>> = metric.units.iter().filter_map(|unit: &Unit| unit.sums.as_ref()).collect();
    let length = counted.first()?.len();
    let sums: Vec<f64> = (0..length).map(|at| counted.iter().map(|sums| sums[at]).sum()).collect();
    let percent = |sums: &[f64]| (sums[1] != 0.0).then(|| 100.0 * sums[0] / sums[1]);
    let f1 = |sums: &[f64]| {
        (sums.iter().sum::<f64>() != 0.0).then(|| 100.0 * 2.0 * sums[0] / (2.0 * sums[0] + sums[1] + sums[2]))
    };
    let mean = |groups: Vec<f64>| groups.iter().sum::<f64>() / groups.len() as f64;
    let thousandth = |mean: f64| (mean * 1000.0).round() / 1000.0;
    match metric.aggregate {
        Aggregate::Percentage => percent(&sums),
        Aggregate::F1 => f1(&sums),
        Aggregate::RatioOfMeans => {
            Some(100.0 * thousandth(sums[0] / sums[2]) / thousandth(sums[1] / sums[2]))
        }
        Aggregate::MeanOfPercentages => Some(mean(sums.chunks(2).filter_map(percent).collect())),
        Aggregate::MeanOfF1 => Some(mean(sums.chunks(3).filter_map(f1).collect())),
    }
}

/// That the metric has this score, where the reference divides nothing by zero.
#[track_caller]
pub(crate) fn assert_score(metrics: &[Metric], name: &str, expected: f64) {
    let found = score(metric(metrics, name)).unwrap_or(0.0);
    assert!((found - expected).abs() < 1e-9, "{name}: {found}, and the reference has {expected}");
}

/// From JSON, with the floats that JSON cannot hold as text.
pub(crate) fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

pub(crate) fn from<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}
