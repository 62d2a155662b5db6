//! Estimates against Python: `vectors/statistics.py` says how they were computed.
//!
//! `STATISTICS_VECTORS` names a file with more of them, as `python statistics.py 5000` writes it.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use serde::Deserialize;
use stic_evaluation::metric::{Aggregate, Metric, Unit};
use stic_evaluation::statistics::{Estimate, difference, score};

#[derive(Deserialize)]
struct Case {
    aggregate: String,
    clusters: Vec<String>,
    model: Vec<Vec<f64>>,
    baseline: Vec<Vec<f64>>,
    score: Expected,
    difference: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expected {
    points: f64,
    standard_error: Option<f64>,
    low: f64,
    high: f64,
    method: String,
    few: bool,
}

fn metric(case: &Case, sums: &[Vec<f64>]) -> Metric {
    let aggregate = match case.aggregate.as_str() {
        "Percentage" => Aggregate::Percentage,
        "F1" => Aggregate::F1,
        "RatioOfMeans" => Aggregate::RatioOfMeans,
        other => panic!("{other}"),
    };
    let units = sums.iter().zip(&case.clusters).enumerate().map(|(place, (sums, cluster))| Unit {
        id: place.to_string(),
        cluster: cluster.clone(),
        sums: Some(sums.clone()),
        unresolved: false,
    });
    Metric { name: "score".into(), aggregate, units: units.collect() }
}

fn check(got: Option<Estimate>, expected: &Expected, place: &str) {
    let got = got.unwrap_or_else(|| panic!("{place}: nothing"));
    let near = |got: f64, expected: f64| (got - expected).abs() < 1e-6;
    let same = near(got.points, expected.points)
        && near(got.low, expected.low)
        && near(got.high, expected.high)
        && near(got.standard_error.unwrap_or(-1.0), expected.standard_error.unwrap_or(-1.0))
        && format!("{:?}", got.method) == expected.method
        && got.few == expected.few;
    assert!(same, "{place}\n{got:?}\n{expected:?}");
}

#[test]
fn estimates_are_those_of_python() {
    let file = std::env::var("STATISTICS_VECTORS").unwrap_or_else(|_| "tests/vectors/statistics.json".into());
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for (place, case) in cases.iter().enumerate() {
        let [model, baseline] = [&case.model, &case.baseline].map(|sums| metric(case, sums));
        check(score(&model).estimate, &case.score, &format!("score {place}"));
        check(difference(&model, &baseline).estimate, &case.difference, &format!("difference {place}"));
    }
}
