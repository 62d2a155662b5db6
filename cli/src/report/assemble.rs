//! From what was found to what is reported. Pure.

use std::collections::BTreeMap;

use stic_contract::RunKind;
use stic_crds::RunStatus;
use stic_crds::status::{EvaluationDifference, EvaluationResult};

use super::check_claims::check_all;
use super::estimate::{Estimate, Interval};
use super::files::{ResultEstimate, ResultRow};
use super::gather::{SourceRun, references};
use super::model::{Difference, Evaluation, Report, Row, Training};
use super::published::PublishedModel;
use crate::run_name::RunName;

pub(super) fn assemble(source: String, runs: &[SourceRun], paper: bool) -> Report {
    let is_evaluation = |run: &&SourceRun| run.name.kind == RunKind::EvaluationRun;
    let evaluations: Vec<_> = runs.iter().filter(is_evaluation).map(|run| evaluation(run, runs)).collect();
    let trainings = runs.iter().filter(|run| !is_evaluation(run)).map(training).collect();
    let mut notes: Vec<String> = runs.iter().flat_map(|run| run.notes.iter().cloned()).collect();
    if evaluations.is_empty() {
        notes.insert(0, format!("There is no EvaluationRun in {source}."));
    }
    let claims = paper.then(|| check_all(&evaluations));
    Report { source, evaluations, trainings, notes, claims }
}

fn evaluation(run: &SourceRun, runs: &[SourceRun]) -> Evaluation {
    let rows = match &run.results {
        Some(rows) => rows_of_results(rows),
        None => run.status.results.iter().map(row_of_status).collect(),
    };
    let images = references(&run.spec)
        .into_iter()
        .filter_map(|(subject, training)| Some((subject?, images(&training, runs)?)));
    Evaluation {
        name: run.name.to_string(),
        model: published_model(&run.status),
        rows,
        images: images.collect(),
    }
}

/// The published model that the baseline certainly is: the base model itself, under a name that it is published with.
fn published_model(status: &RunStatus) -> Option<PublishedModel> {
    let baseline = status.inputs.as_ref()?.subjects.first()?;
    if baseline.adapter.is_some() {
        return None;
    }
    let volume = baseline.model.volume.as_ref().map(|volume| volume.path.as_str());
    let image = baseline.model.image.as_ref().map(|image| image.reference.as_str());
    [volume, image, Some(baseline.name.as_str())].into_iter().flatten().find_map(PublishedModel::named)
}

/// The number of images that the first stage of `training` used.
fn images(training: &RunName, runs: &[SourceRun]) -> Option<u64> {
    let run = runs.iter().find(|run| run.name == *training)?;
    match run.name.kind {
        RunKind::StageOneRun => images_of_stage_one(&run.status),
        _ => references(&run.spec).iter().find_map(|(_, upstream)| {
            let upstream = runs.iter().find(|run| run.name == *upstream)?;
            images_of_stage_one(&upstream.status)
        }),
    }
}

fn images_of_stage_one(status: &RunStatus) -> Option<u64> {
    Some(status.inputs.as_ref()?.images.as_ref()?.count)
}

fn rows_of_results(rows: &[ResultRow]) -> Vec<Row> {
    let group = |row: &ResultRow| (row.benchmark, row.prompting, row.scorer);
    let groups = rows.chunk_by(|a, b| group(a) == group(b));
    // The first metric of a benchmark is its headline.
    let of_group = |rows: &'_ [ResultRow]| -> Vec<Row> {
        rows.iter().map(|row| row_of_results(row, row.metric == rows[0].metric)).collect()
    };
    groups.flat_map(of_group).collect()
}

fn row_of_results(row: &ResultRow, is_headline: bool) -> Row {
    let ResultRow { benchmark, prompting, scorer, metric, subject, score, difference } = row;
    let estimate = |of: ResultEstimate| Estimate {
        points: of.points,
        interval: Some(Interval { low: of.low, high: of.high }),
    };
    Row {
        benchmark: *benchmark,
        prompting: *prompting,
        scorer: *scorer,
        metric: Some(metric.clone()),
        is_headline,
        subject: subject.clone(),
        score: score.estimate.map(estimate),
        counted: score.counted,
        unresolved: score.unresolved,
        not_judged: score.failed,
        difference: difference
            .as_ref()
            .map(|of| Difference { estimate: of.estimate.map(estimate), pairs: Some(of.pairs) }),
    }
}

fn row_of_status(result: &EvaluationResult) -> Row {
    let EvaluationResult {
        benchmark,
        prompting,
        scorer,
        subject,
        score,
        standard_error: _,
        answered,
        unresolved,
        judge_failed,
        difference,
    } = result;
    let points = score.as_ref().and_then(|score| score.parse().ok());
    Row {
        benchmark: *benchmark,
        prompting: *prompting,
        scorer: *scorer,
        metric: None,
        is_headline: true,
        subject: subject.clone(),
        // The status has a rounded standard error, from which the interval in results.csv does not follow.
        score: points.map(|points| Estimate { points, interval: None }),
        counted: *answered,
        unresolved: *unresolved,
        not_judged: *judge_failed,
        difference: difference
            .as_ref()
            .map(|difference| Difference { estimate: estimate_of_status(difference), pairs: None }),
    }
}

fn estimate_of_status(difference: &EvaluationDifference) -> Option<Estimate> {
    let EvaluationDifference { to: _, points, low, high } = difference;
    let interval = Interval { low: low.parse().ok()?, high: high.parse().ok()? };
    Some(Estimate { points: points.parse().ok()?, interval: Some(interval) })
}

fn training(run: &SourceRun) -> Training {
    let last = match run.steps.last() {
        Some(step) => {
            step.values.iter().filter_map(|(name, value)| Some((name.clone(), (*value)?))).collect()
        }
        None => last_of_status(&run.status),
    };
    Training {
        name: run.name.to_string(),
        phase: run.status.phase().map(ToOwned::to_owned),
        images: images_of_stage_one(&run.status),
        steps: run.steps.clone(),
        last,
    }
}

/// What the status says about the last step: all metrics while it runs, otherwise what `kubectl get` shows.
fn last_of_status(status: &RunStatus) -> BTreeMap<String, f64> {
    let display = status.display.clone().unwrap_or_default();
    let shown = [("loss", display.loss), ("rewards/margins", display.margin)];
    let shown = shown.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let running = status.progress.iter().flat_map(|progress| progress.metrics.clone());
    shown.chain(running).filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
}
