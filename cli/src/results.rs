//! The scores of an evaluation as a table.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use stic_crds::status::EvaluationResult;

/// The lines of the table, without an indentation.
pub(crate) fn lines(results: &[EvaluationResult]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "BENCHMARK",
        "ASKED",
        "MODEL",
        "SCORE",
        "OF",
        "UNRESOLVED",
        "NOT JUDGED",
        "DIFFERENCE",
        "95%",
    ]);
    let several_scorers = results.iter().any(|result| result.scorer != results[0].scorer);
    for result in results {
        let EvaluationResult { benchmark, prompting, scorer, subject, score, .. } = result;
        let scored = if several_scorers { format!(" ({})", scorer.as_str()) } else { String::new() };
        let [points, interval] = result.difference.as_ref().map_or_else(Default::default, |difference| {
            [difference.points.clone(), format!("{} to {}", difference.low, difference.high)]
        });
        table.add_row([
            format!("{benchmark}{scored}"),
            prompting.as_str().to_owned(),
            subject.clone(),
            score.clone().unwrap_or_else(|| "-".into()),
            result.answered.to_string(),
            result.unresolved.to_string(),
            result.judge_failed.to_string(),
            points,
            interval,
        ]);
    }
    for column in 3..=7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // As with kubectl, the first column starts at the beginning of the line.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}
