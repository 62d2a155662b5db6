//! The scores of several policies, and their differences to the first one.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::intervals::{Estimate, mean, paired_difference};

/// A metric of one policy.
pub struct Metric {
    /// Its key in `table.json`.
    pub key: &'static str,
    /// Its column in the printed table.
    pub title: &'static str,
    /// One value per example.
    pub values: Vec<f64>,
}

/// The scores of one policy.
struct PolicyScores {
    policy: String,
    metrics: Vec<(&'static str, Estimate)>,
    /// Differences to the first policy on the same examples; `None` for the first.
    against_first: Option<Vec<Estimate>>,
}

/// One row per policy, one column per metric. Its [`fmt::Display`] is the printed table, its [`Serialize`] is
/// `table.json`.
pub struct ScoreTable {
    titles: Vec<&'static str>,
    rows: Vec<PolicyScores>,
}

impl ScoreTable {
    pub(super) fn of(policies: Vec<(&str, Vec<Metric>)>) -> Self {
        let titles = policies.first().map(|(_, metrics)| metrics.iter().map(|metric| metric.title).collect());
        let differences = |metrics: &[Metric], first: &[Metric]| -> Vec<Estimate> {
            metrics.iter().zip(first).map(|(a, b)| paired_difference(&a.values, &b.values)).collect()
        };
        let rows = policies.iter().enumerate().map(|(index, (policy, metrics))| PolicyScores {
            policy: (*policy).to_owned(),
            metrics: metrics.iter().map(|metric| (metric.key, mean(&metric.values))).collect(),
            against_first: (index > 0).then(|| differences(metrics, &policies[0].1)),
        });
        Self { rows: rows.collect(), titles: titles.unwrap_or_default() }
    }
}

impl Serialize for ScoreTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.rows)
    }
}

impl Serialize for PolicyScores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.metrics.len() + 2))?;
        map.serialize_entry("policy", &self.policy)?;
        for (key, estimate) in &self.metrics {
            map.serialize_entry(key, estimate)?;
        }
        map.serialize_entry("againstFirst", &self.against_first)?;
        map.end()
    }
}

impl fmt::Display for ScoreTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = ["model"].iter().chain(&self.titles).map(|title| (*title).to_owned());
        let mut lines = vec![headers.collect::<Vec<String>>()];
        for row in &self.rows {
            let scores = row.metrics.iter().map(|(_, e)| format!("{:.3} ±{:.3}", e.mean, e.half_width));
            lines.push([row.policy.clone()].into_iter().chain(scores).collect());
            if let Some(differences) = &row.against_first {
                let scores = differences.iter().map(|e| format!("{:+.3} ±{:.3}", e.mean, e.half_width));
                let name = format!("  against {}", self.rows[0].policy);
                lines.push([name].into_iter().chain(scores).collect());
            }
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                write!(text, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", text.trim_end())?;
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(f, "{}", rules.join("  "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(right: [f64; 2], f1: f64) -> Vec<Metric> {
        vec![
            Metric { key: "direct", title: "asked directly", values: right.to_vec() },
            Metric { key: "descriptionF1", title: "F1", values: vec![f1] },
        ]
    }

    #[test]
    fn the_table_lists_scores_and_then_paired_differences_to_the_first_policy() {
        let policies = vec![("base", metrics([1.0, 1.0], 0.5)), ("tuned", metrics([0.0, 0.0], 0.75))];
        let table = ScoreTable::of(policies);
        assert_eq!(
            table.to_string(),
            "model           asked directly  F1\n\
             --------------  --------------  -------------\n\
             base            1.000 ±0.000    0.500 ±0.000\n\
             tuned           0.000 ±0.000    0.750 ±0.000\n  against base  -1.000 ±0.000   +0.250 ±0.000\n"
        );
        let json = serde_json::to_string(&table).expect("JSON");
        assert_eq!(
            json,
            r#"[{"policy":"base","direct":{"mean":1.0,"half_width":0.0},"descriptionF1":{"mean":0.5,"half_width":0.0},"againstFirst":null},"#
                .to_owned()
                + r#"{"policy":"tuned","direct":{"mean":0.0,"half_width":0.0},"descriptionF1":{"mean":0.75,"half_width":0.0},"againstFirst":[{"mean":-1.0,"half_width":0.0},{"mean":0.25,"half_width":0.0}]}]"#
        );
    }
}
