//! A report as comma-separated values: a row for each score, measured or published. Numbers are unrounded; what is not known
//! is empty. The columns are those of `results.csv` as far as a report has them, so they quote alike, in one line of code
//! rather than with a dependency.

use super::claim::CheckedClaim;
use super::escape::csv as quoted;
use super::estimate::{Estimate, Interval};
use super::model::{Evaluation, Report, Row};
use super::published::{self, COMPARISONS, Comparison};

const HEADER: [&str; 18] = [
    "source",
    "benchmark",
    "prompting",
    "scorer",
    "metric",
    "subject",
    "score",
    "low",
    "high",
    "counted",
    "unresolved",
    "failed",
    "difference",
    "difference_low",
    "difference_high",
    "pairs",
    "half_width",
    "verdict",
];

pub(super) fn render(report: &Report) -> String {
    let mut rows = vec![HEADER.map(ToOwned::to_owned)];
    rows.extend(
        report
            .evaluations
            .iter()
            .flat_map(|evaluation| evaluation.rows.iter().map(move |row| measured(evaluation, row))),
    );
    match &report.claims {
        // Every published gain with its verdict.
        Some(claims) => rows.extend(claims.iter().map(claim)),
        None => rows.extend(COMPARISONS.iter().flat_map(published)),
    }
    rows.iter().map(|row| format!("{}\n", row.each_ref().map(|cell| quoted(cell)).join(","))).collect()
}

fn measured(evaluation: &Evaluation, row: &Row) -> [String; 18] {
    let [score, low, high] = estimate(row.score);
    let difference = row.difference.as_ref();
    let [points, difference_low, difference_high] = estimate(difference.and_then(|of| of.estimate));
    let interval = difference.and_then(|of| of.estimate?.interval);
    [
        evaluation.name.clone(),
        row.benchmark.to_string(),
        row.prompting.as_str().into(),
        row.scorer.as_str().into(),
        row.metric.clone().unwrap_or_default(),
        row.subject.clone(),
        score,
        low,
        high,
        row.counted.to_string(),
        row.unresolved.to_string(),
        row.not_judged.to_string(),
        points,
        difference_low,
        difference_high,
        difference.and_then(|of| of.pairs).map_or_else(String::new, |pairs| pairs.to_string()),
        interval.map_or_else(String::new, |of: Interval| of.half_width().to_string()),
        String::new(),
    ]
}

fn estimate(estimate: Option<Estimate>) -> [String; 3] {
    let interval = estimate.and_then(|of| of.interval);
    let [low, high] =
        interval.map_or_else(Default::default, |of| [of.low, of.high].map(|limit| limit.to_string()));
    [estimate.map_or_else(String::new, |of| of.points.to_string()), low, high]
}

fn published(comparison: &Comparison) -> impl Iterator<Item = [String; 18]> + use<> {
    let Comparison { source, model, prompting, scores } = *comparison;
    scores.into_iter().map(move |(benchmark, base, stic)| {
        let mut row = empty();
        row[0] = format!("{} {source}", published::SOURCE);
        row[1] = benchmark.to_string();
        row[2] = prompting.map_or_else(String::new, |prompting| prompting.as_str().into());
        row[5] = format!("{} + STIC", model.as_str());
        row[6] = stic.to_string();
        row[12] = (((stic - base) * 100.0).round() / 100.0).to_string();
        row
    })
}

fn claim(checked: &CheckedClaim) -> [String; 18] {
    let claim = &checked.claim;
    let mut row = empty();
    row[0] = format!("{} {}", published::SOURCE, claim.source);
    row[1] = claim.benchmark.to_string();
    row[2] = claim.prompting.map_or_else(String::new, |prompting| prompting.as_str().into());
    row[5] = format!("{} {}", claim.model.as_str(), claim.what);
    row[12] = claim.gain.to_string();
    row[15] = checked.questions.to_string();
    row[16] = checked.half_width.to_string();
    row[17] = format!("{} ({})", checked.verdict_text(), checked.basis_text());
    row
}

fn empty() -> [String; 18] {
    std::array::from_fn(|_| String::new())
}
