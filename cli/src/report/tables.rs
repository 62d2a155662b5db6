//! From a report to a document: its sections, paragraphs and tables.

use stic_contract::evaluation::BenchmarkName;

use super::claim::{Basis, CheckedClaim};
use super::document::{Block, Document, Section, Table, number, words};
use super::estimate::{Estimate, difference_interval, difference_text, score_interval, score_text};
use super::figures;
use super::model::{Evaluation, Report, Row, Training};
use super::published::{self, COMPARISONS, Comparison, PublishedModel};

pub(super) fn document(report: &Report) -> Document {
    let mut sections = Vec::new();
    if !report.notes.is_empty() {
        let blocks = vec![Block::List(report.notes.clone())];
        sections.push(Section { title: "What is missing".into(), blocks });
    }
    sections
        .extend(report.evaluations.iter().filter(|evaluation| !evaluation.rows.is_empty()).map(evaluation));
    sections.extend(report.claims.as_deref().map(claims));
    sections.extend(images(&report.evaluations));
    sections.extend(trainings(&report.trainings));
    Document { title: format!("STIC report of {}", report.source), sections }
}

fn evaluation(evaluation: &Evaluation) -> Section {
    let mut blocks = vec![Block::Paragraph(
        "Scores and differences are in points. A difference is to the first model, on the same questions; if its 95% interval \
         contains 0, the evaluation does not show which model is better. Unresolved answers count as wrong, and answers that \
         were not judged are in no score."
            .into(),
    )];
    let headlines: Vec<&Row> = evaluation.rows.iter().filter(|row| row.is_headline).collect();
    blocks.push(Block::Table(score_table(format!("Scores of {}", evaluation.name), &headlines)));
    if headlines.len() < evaluation.rows.len() {
        let all: Vec<&Row> = evaluation.rows.iter().collect();
        blocks.push(Block::Details(score_table(format!("All metrics of {}", evaluation.name), &all)));
    }
    blocks.extend(published(evaluation));
    blocks.extend(figures::gains(evaluation).map(Block::Figure));
    blocks.extend(figures::scores(evaluation).map(Block::Figure));
    Section { title: evaluation.name.clone(), blocks }
}

fn score_table(caption: String, rows: &[&Row]) -> Table {
    let several_scorers = rows.iter().any(|row| row.scorer != rows[0].scorer);
    let columns = vec![
        words("Benchmark"),
        words("Asked"),
        words("Metric"),
        words("Model"),
        number("Score"),
        words("95%"),
        number("Of"),
        number("Unresolved"),
        number("Not judged"),
        number("Difference"),
        words("95%"),
    ];
    let cells = |row: &&Row| {
        let scored = if several_scorers { format!(" ({})", row.scorer.as_str()) } else { String::new() };
        let of_difference = row.difference.as_ref();
        vec![
            format!("{}{scored}", row.benchmark),
            row.prompting.as_str().to_owned(),
            row.metric.clone().unwrap_or_else(|| "headline".into()),
            row.subject.clone(),
            row.score.map_or_else(|| "-".into(), |score| score_text(score.points)),
            row.score.and_then(|score| score.interval).map_or_else(String::new, score_interval),
            row.counted.to_string(),
            row.unresolved.to_string(),
            row.not_judged.to_string(),
            of_difference.map_or_else(String::new, |of| estimate_points(of.estimate)),
            of_difference.and_then(|of| of.estimate?.interval).map_or_else(String::new, difference_interval),
        ]
    };
    Table { caption, columns, rows: rows.iter().map(cells).collect() }
}

/// The published scores on the benchmarks of an evaluation: of the model that the baseline certainly is, or of both.
fn published(evaluation: &Evaluation) -> Vec<Block> {
    let has = |benchmark: BenchmarkName| evaluation.rows.iter().any(|row| row.benchmark == benchmark);
    let benchmarks: Vec<_> =
        COMPARISONS[0].scores.iter().map(|(name, ..)| *name).filter(|name| has(*name)).collect();
    if benchmarks.is_empty() {
        return vec![Block::Paragraph("The paper has no numbers for these benchmarks.".into())];
    }
    let models: Vec<PublishedModel> =
        evaluation.model.map_or_else(|| PublishedModel::ALL.into(), |model| vec![model]);
    let introduction = match evaluation.model {
        Some(model) => format!("The baseline is {}, by its name.", model.as_str()),
        None => {
            "The name of the baseline does not say which of the paper's models it is, so both follow.".into()
        }
    };
    let mut blocks = vec![Block::Paragraph(format!(
        "{introduction} Published scores depend on the chat template and on the scorer LLaVA."
    ))];
    blocks.extend(models.iter().map(|model| Block::Table(published_table(*model, &benchmarks))));
    if models.contains(&PublishedModel::LlavaV16) {
        blocks.push(Block::Paragraph(published::MIXED.into()));
    }
    blocks
}

fn published_table(model: PublishedModel, benchmarks: &[BenchmarkName]) -> Table {
    let columns = vec![
        words("Benchmark"),
        words("Asked"),
        number("Base"),
        number("+ STIC"),
        number("Gain"),
        words("Source"),
    ];
    let comparisons = COMPARISONS.iter().filter(|comparison| comparison.model == model);
    let rows = comparisons
        .flat_map(|comparison| benchmarks.iter().filter_map(|name| published_row(comparison, *name)));
    let caption = format!("The paper's {} ({})", model.as_str(), published::SOURCE);
    Table { caption, columns, rows: rows.collect() }
}

fn published_row(comparison: &Comparison, benchmark: BenchmarkName) -> Option<Vec<String>> {
    let (base, stic) = published::scores(comparison, benchmark)?;
    Some(vec![
        benchmark.to_string(),
        comparison.prompting.map_or_else(|| "not stated".into(), |prompting| prompting.as_str().to_owned()),
        score_text(base),
        score_text(stic),
        difference_text(stic - base),
        comparison.source.to_owned(),
    ])
}

fn claims(claims: &[CheckedClaim]) -> Section {
    let mut blocks = vec![Block::Paragraph(
        "The half-width is that of the 95% interval of a difference between two models on the same questions. A gain can be \
         shown if it is larger; it is found in four of five evaluations if it is as large as the column Found in 80%. Without \
         answers, the half-width is the expectation for the whole benchmark in docs/evaluation-statistics.md."
            .into(),
    )];
    let group = |checked: &CheckedClaim| (checked.claim.source, checked.claim.model, checked.claim.what);
    let groups = claims.chunk_by(|a, b| group(a) == group(b));
    blocks.extend(groups.map(|claims| Block::Table(claim_table(claims))));
    blocks.push(Block::Paragraph(published::MIXED.into()));
    Section { title: format!("The gains in the paper ({})", published::SOURCE), blocks }
}

fn claim_table(claims: &[CheckedClaim]) -> Table {
    let columns = vec![
        words("Benchmark"),
        number("Published"),
        number("Half-width"),
        number("Found in 80%"),
        words("Verdict"),
        number("Measured"),
        words("95%"),
        words("Half-width from"),
    ];
    let caption = claims.first().map_or_else(String::new, |CheckedClaim { claim, .. }| {
        format!("{}, {} {}", claim.source, claim.model.as_str(), claim.what)
    });
    Table { caption, columns, rows: claims.iter().map(claim_row).collect() }
}

fn claim_row(checked: &CheckedClaim) -> Vec<String> {
    let claim = &checked.claim;
    let measured = match &checked.basis {
        Basis::Measured { difference, .. } => *difference,
        Basis::Scores { .. } | Basis::Nothing => None,
    };
    vec![
        claim.benchmark.to_string(),
        difference_text(claim.gain),
        format!("{:.1}", checked.half_width),
        format!("{:.1}", checked.detectable),
        checked.verdict_text(),
        measured.map_or_else(String::new, |of| difference_text(of.points)),
        measured.and_then(|of| of.interval).map_or_else(String::new, difference_interval),
        checked.basis_text(),
    ]
}

/// Figure 7, where models that were trained with different numbers of images are compared.
fn images(evaluations: &[Evaluation]) -> Option<Section> {
    if evaluations.iter().all(|evaluation| evaluation.images.is_empty()) {
        return None;
    }
    let block = figures::by_images(evaluations).map_or_else(
        || {
            Block::Paragraph(
                "All models here were trained with the same number of images, so there is no figure. Evaluate runs with \
                 different spec.images.limit."
                    .into(),
            )
        },
        Block::Figure,
    );
    Some(Section { title: "Number of images".into(), blocks: vec![block] })
}

fn trainings(trainings: &[Training]) -> Option<Section> {
    if trainings.is_empty() {
        return None;
    }
    let columns = vec![
        words("Run"),
        words("Phase"),
        number("Images"),
        number("Steps"),
        number("Loss"),
        number("Margin"),
        number("Accuracy"),
        number("Tokens/s"),
    ];
    let caption = "Trainings, with the metrics of their last step".to_owned();
    let rows = trainings.iter().map(training_row).collect();
    let mut blocks = vec![Block::Table(Table { caption, columns, rows })];
    blocks.extend(trainings.iter().flat_map(figures::curves).map(Block::Figure));
    let with_steps = trainings.iter().any(|training| !training.steps.is_empty());
    if with_steps && !trainings.iter().any(figures::has_memory) {
        blocks.push(Block::Paragraph(
            "metrics.jsonl has no metric of memory, so there is no figure of it.".into(),
        ));
    }
    Some(Section { title: "Training".into(), blocks })
}

fn training_row(training: &Training) -> Vec<String> {
    let last = |name: &str| training.last.get(name).map_or_else(String::new, |value| format!("{value:.3}"));
    let speeds: Vec<f64> =
        training.steps.iter().filter_map(|step| step.values.get(figures::SPEED).copied().flatten()).collect();
    let speed = speeds.iter().sum::<f64>() / speeds.len() as f64;
    vec![
        training.name.clone(),
        training.phase.clone().unwrap_or_else(|| "Pending".into()),
        training.images.map_or_else(String::new, |images| images.to_string()),
        training.steps.last().map_or_else(String::new, |step| step.step.to_string()),
        last("loss"),
        last("rewards/margins"),
        last("rewards/accuracies"),
        if speeds.is_empty() { String::new() } else { format!("{speed:.0}") },
    ]
}

/// `-` where there is no pair of answers.
fn estimate_points(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(|| "-".into(), |estimate| difference_text(estimate.points))
}
