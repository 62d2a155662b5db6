//! The results of an evaluation: a score for each benchmark, way of asking, scorer, metric and model, and its difference to
//! that of the first model.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::{Deserialize, Serialize};
use stic_contract::evaluation::{BenchmarkName, Prompting};

use crate::metric::Metric;
use crate::scorer::Scorer;
use crate::statistics::{Difference, Score, difference, score};

/// One row of the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultRow {
    pub benchmark: BenchmarkName,
    /// How the questions were asked.
    pub prompting: Prompting,
    pub scorer: Scorer,
    pub metric: String,
    /// The model, by the name that the user gave it.
    pub subject: String,
    pub score: Score,
    /// To the first model, on the same questions; `None` for the first.
    pub difference: Option<Difference>,
}

/// The metrics of one model.
#[derive(Debug)]
pub struct SubjectMetrics<'a> {
    pub subject: &'a str,
    pub metrics: Vec<Metric>,
}

/// The rows of one benchmark, way of asking and scorer: by metric, then by model in the order of `subjects`, of which the
/// first is the baseline.
#[must_use]
pub fn rows(
    benchmark: BenchmarkName,
    prompting: Prompting,
    scorer: Scorer,
    subjects: &[SubjectMetrics<'_>],
) -> Vec<ResultRow> {
    let Some(baseline) = subjects.first() else { return Vec::new() };
    let mut rows = Vec::new();
    for of_baseline in &baseline.metrics {
        for (index, SubjectMetrics { subject, metrics }) in subjects.iter().enumerate() {
            let Some(metric) = metrics.iter().find(|metric| metric.name == of_baseline.name) else {
                continue;
            };
            rows.push(ResultRow {
                benchmark,
                prompting,
                scorer,
                metric: metric.name.clone(),
                subject: (*subject).to_owned(),
                score: score(metric),
                difference: (index > 0).then(|| difference(metric, of_baseline)),
            });
        }
    }
    rows
}

/// The rows as comma-separated values with a header. Numbers are unrounded; what is not known is empty.
#[must_use]
pub fn csv(rows: &[ResultRow]) -> String {
    let mut text = String::from(
        "benchmark,prompting,scorer,metric,subject,score,standard_error,low,high,counted,unresolved,failed,clusters,\
         difference,difference_low,difference_high,pairs,left_out\n",
    );
    for row in rows {
        let ResultRow { benchmark, prompting, scorer, metric, subject, score, difference } = row;
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let estimate = score.estimate.as_ref();
        let of_difference = difference.as_ref().and_then(|difference| difference.estimate.as_ref());
        let counts = |count: fn(&Difference) -> usize| {
            difference.as_ref().map_or_else(String::new, |of| count(of).to_string())
        };
        let cells = [
            benchmark.to_string(),
            prompting.as_str().to_owned(),
            scorer.as_str().to_owned(),
            quoted(metric),
            quoted(subject),
            number(estimate.map(|of| of.points)),
            number(estimate.and_then(|of| of.standard_error)),
            number(estimate.map(|of| of.low)),
            number(estimate.map(|of| of.high)),
            score.counted.to_string(),
            score.unresolved.to_string(),
            score.failed.to_string(),
            score.clusters.to_string(),
            number(of_difference.map(|of| of.points)),
            number(of_difference.map(|of| of.low)),
            number(of_difference.map(|of| of.high)),
            counts(|of| of.pairs),
            counts(|of| of.left_out),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

/// A cell, in quotes if it contains what would end it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// The rows as a table for a terminal: scores and differences in points, each with its 95% interval.
#[must_use]
pub fn table(rows: &[ResultRow]) -> String {
    let several_scorers = rows.iter().any(|row| row.scorer != rows[0].scorer);
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "BENCHMARK",
        "ASKED",
        "METRIC",
        "MODEL",
        "SCORE",
        "95%",
        "OF",
        "UNRESOLVED",
        "NOT JUDGED",
        "DIFFERENCE",
        "95%",
    ]);
    for row in rows {
        let ResultRow { benchmark, prompting, scorer, metric, subject, score, difference } = row;
        let benchmark = if several_scorers {
            format!("{benchmark} ({})", scorer.as_str())
        } else {
            benchmark.to_string()
        };
        let [points, interval] = score.estimate.as_ref().map_or([String::from("-"), String::new()], |of| {
            [format!("{:.1}", of.points), format!("{:.1} to {:.1}", of.low, of.high)]
        });
        let of_difference = difference.as_ref().map(|of| of.estimate.as_ref());
        let [change, between] = match of_difference {
            None => [String::new(), String::new()],
            Some(None) => [String::from("-"), String::new()],
            Some(Some(of)) => [format!("{:+.1}", of.points), format!("{:+.1} to {:+.1}", of.low, of.high)],
        };
        let counted = score.counted.to_string();
        let [unresolved, not_judged] = [score.unresolved, score.failed].map(|count| count.to_string());
        table.add_row([
            benchmark,
            prompting.as_str().to_owned(),
            metric.clone(),
            subject.clone(),
            points,
            interval,
            counted,
            unresolved,
            not_judged,
            change,
            between,
        ]);
    }
    for column in [4, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
