//! The status of a run: a pure function of a [`Snapshot`] and of the verdict on it.

mod conditions;
pub mod display;
pub mod failure;
mod resolved;
mod results;
mod steps;

use stic_contract::{StepName, pipeline};
use stic_crds::status::{ActiveTime, Display, Progress};
use stic_crds::{ConditionType, Reason, RunStatus};

use self::conditions::conditions;
use self::resolved::{inputs, resolved};
pub use self::steps::limit_note;
use self::steps::{artifacts, step};
use crate::decision::Verdict;
use crate::snapshot::{Snapshot, StepOutcome, Steps};
use crate::trainer_images::TrainerImages;
use crate::validated::Validated;

/// The status that follows the previous one of `snapshot`. A time changes only when what it belongs to does.
///
/// `progress` is that of the running step, and `images` are those to pin, on a cluster.
#[must_use]
pub fn status(
    snapshot: &Snapshot,
    verdict: &Verdict,
    progress: Option<&stic_contract::Progress>,
    images: Option<&TrainerImages>,
) -> RunStatus {
    let Snapshot { previous, steps, now, .. } = snapshot;
    let ended = verdict.is_final();
    let progress = progress.filter(|_| !ended).map(display::progress);
    let progress =
        final_progress(snapshot, verdict).or(progress).or_else(|| recorded_progress(snapshot, verdict));
    let run = snapshot.valid();
    let results = results::results(snapshot);
    let headline = results::headline(&results);
    RunStatus {
        observed_generation: snapshot.generation,
        rerun: snapshot.run.rerun,
        observed_rerun: Some(snapshot.requested.rerun),
        retry: snapshot.requested.retry,
        conditions: conditions(snapshot, verdict),
        start_time: previous.start_time.clone().or_else(|| Some(now.clone())),
        completion_time: ended.then(|| previous.completion_time.clone().unwrap_or_else(|| now.clone())),
        active_time: Some(active_time(snapshot, verdict)),
        resolved: run.map(|run| resolved(run, previous, images)).or_else(|| previous.resolved.clone()),
        inputs: run.map(|run| inputs(run, steps)).or_else(|| previous.inputs.clone()),
        display: Some(Display {
            score: headline.and_then(results::score),
            difference: headline.and_then(results::difference),
            ..display::display(
                shown_phase(verdict),
                progress.as_ref(),
                run.and_then(|run| pairs(run, steps)),
                ended,
            )
        }),
        progress,
        steps: step_names(snapshot).map(|name| step(snapshot, verdict, name)).collect(),
        artifacts: artifacts(previous, steps, verdict),
        results,
    }
}

/// What the last step of a run that has succeeded reported at its end. The progress that was polled before is older, and
/// of an adapter that another run trained there is none.
fn final_progress(snapshot: &Snapshot, verdict: &Verdict) -> Option<Progress> {
    let Verdict::Succeeded { .. } = verdict else { return None };
    let (step, last) = snapshot.steps.iter().next_back()?;
    let StepOutcome::Succeeded(result) = &last.outcome else { return None };
    let done = result.metrics.get("step")?.parse().ok()?;
    Some(Progress {
        step: *step,
        percent: 100,
        current_step: done,
        total_steps: done,
        unit: "steps".into(),
        estimated_remaining_seconds: None,
        metrics: result.metrics.clone(),
        last_updated_time: Some(
            snapshot.previous.completion_time.clone().unwrap_or_else(|| snapshot.now.clone()),
        ),
    })
}

/// The last progress that was read, while it still describes what the run does: not that of an earlier step, and none
/// while the run waits in a queue.
fn recorded_progress(snapshot: &Snapshot, verdict: &Verdict) -> Option<Progress> {
    let current = match verdict {
        Verdict::Launching(step) => Some(step),
        _ => snapshot.steps.keys().next_back(),
    };
    let queued = conditions::phase(verdict) == Reason::Queued;
    snapshot.previous.progress.clone().filter(|progress| current == Some(&progress.step) && !queued)
}

/// The time in which the run could work, paused or continued as the verdict says.
fn active_time(snapshot: &Snapshot, verdict: &Verdict) -> ActiveTime {
    let ActiveTime { seconds, since } = snapshot.active_time();
    let now = &snapshot.now;
    let works = !verdict.is_final() && !conditions::phase(verdict).pauses_deadline();
    if works {
        return ActiveTime { seconds, since: since.or_else(|| Some(now.clone())) };
    }
    let more = since.map_or(0, |since| u64::try_from(now.0.duration_since(since.0).as_secs()).unwrap_or(0));
    ActiveTime { seconds: seconds + more, since: None }
}

/// The phase as `kubectl get` shows it, so that a run that waits does not look like one that has failed.
fn shown_phase(verdict: &Verdict) -> String {
    let reason = conditions::phase(verdict);
    match verdict {
        Verdict::Failed { .. } => format!("Failed ({reason})"),
        _ => reason.display(),
    }
}

/// The steps of a run. Without its spec they are those of the previous status.
fn step_names(snapshot: &Snapshot) -> impl Iterator<Item = StepName> {
    let of_spec = snapshot.valid().map(|run| run.steps().map(|spec| spec.name).collect::<Vec<_>>());
    let recorded: Vec<StepName> = snapshot.previous.steps.iter().map(|step| step.name).collect();
    let all = || pipeline::steps(snapshot.run.kind).iter().map(|spec| spec.name).collect();
    let recorded = (!recorded.is_empty()).then_some(recorded);
    of_spec.or(recorded).unwrap_or_else(all).into_iter()
}

/// What turns the training steps of stage 1 into pairs; absent in other runs.
fn pairs(run: &Validated, steps: &Steps) -> Option<display::Pairs> {
    let train = &run.work.training()?.train;
    Some(display::Pairs {
        per_step: u64::from(train.global_batch_size),
        count: inputs(run, steps).images?.count,
        epochs: u64::from(train.epochs),
    })
}

/// A status without the conditions that somebody else wrote: they decide nothing and are not ours to write.
#[must_use]
pub fn without_foreign_conditions(mut status: RunStatus) -> RunStatus {
    status.conditions.retain(|condition| condition.type_.parse::<ConditionType>().is_ok());
    status
}

/// Whether two statuses differ in more than the time of progress, so that a patch is worth its cost.
#[must_use]
pub fn differs(old: &RunStatus, new: &RunStatus) -> bool {
    let timeless = |status: &RunStatus| {
        let mut status = status.clone();
        if let Some(progress) = &mut status.progress {
            progress.last_updated_time = None;
        }
        status
    };
    timeless(old) != timeless(new)
}
