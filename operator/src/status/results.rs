//! The scores of an evaluation.

use stic_contract::StepName;
use stic_contract::result::{BenchmarkScores, SubjectScore};
use stic_crds::status::{EvaluationDifference, EvaluationResult};

use crate::snapshot::{Snapshot, StepOutcome};

/// What the step `score` reported, or else what the previous status has.
pub(super) fn results(snapshot: &Snapshot) -> Vec<EvaluationResult> {
    let outcome = snapshot.steps.get(&StepName::Score).map(|step| &step.outcome);
    match outcome {
        Some(StepOutcome::Succeeded(result)) if !result.scores.is_empty() => {
            let names: Vec<String> = subjects(snapshot);
            result.scores.iter().flat_map(|scores| of_benchmark(scores, &names)).collect()
        }
        _ => snapshot.previous.results.clone(),
    }
}

/// The names of the models, which a result leaves out.
fn subjects(snapshot: &Snapshot) -> Vec<String> {
    let evaluation = snapshot.valid().and_then(|run| run.work.evaluation());
    match evaluation {
        Some(evaluation) => evaluation.subjects.iter().map(|subject| subject.name.clone()).collect(),
        None => {
            let inputs = snapshot.previous.inputs.iter();
            inputs.flat_map(|inputs| &inputs.subjects).map(|subject| subject.name.clone()).collect()
        }
    }
}

fn of_benchmark(scores: &BenchmarkScores, names: &[String]) -> Vec<EvaluationResult> {
    let BenchmarkScores { benchmark, prompting, scorer, of } = scores;
    let of_subject = |(name, score): (&String, &SubjectScore)| {
        let SubjectScore { points, standard_error, counted, unresolved, judge_failed, difference } = score;
        let difference = difference.clone().zip(names.first());
        EvaluationResult {
            benchmark: *benchmark,
            prompting: *prompting,
            scorer: *scorer,
            subject: name.clone(),
            score: points.clone(),
            standard_error: standard_error.clone(),
            answered: *counted,
            unresolved: *unresolved,
            judge_failed: *judge_failed,
            difference: difference.map(|([points, low, high], to)| EvaluationDifference {
                to: to.clone(),
                points,
                low,
                high,
            }),
        }
    };
    names.iter().zip(of).map(of_subject).collect()
}

/// The result that stands for the evaluation in `kubectl get`: that of the last model on the first benchmark, asked in the
/// last way, in which STIC's effect is largest.
pub(super) fn headline(results: &[EvaluationResult]) -> Option<&EvaluationResult> {
    let first = results.first()?;
    let same =
        |result: &&EvaluationResult| result.benchmark == first.benchmark && result.scorer == first.scorer;
    results.iter().rfind(same)
}

/// Such as `ScienceQA 75.3`.
pub(super) fn score(result: &EvaluationResult) -> Option<String> {
    Some(format!("{} {}", result.benchmark, result.score.as_ref()?))
}

/// Such as `+6.4 (+4.9 to +7.9)`.
pub(super) fn difference(result: &EvaluationResult) -> Option<String> {
    let EvaluationDifference { to: _, points, low, high } = result.difference.as_ref()?;
    Some(format!("{points} ({low} to {high})"))
}
