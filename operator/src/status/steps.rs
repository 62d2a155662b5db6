//! The steps and artifacts of a run.

use stic_contract::config::{Instructions, ItemSource};
use stic_contract::{Artifact, RunKind, StepName, StepResult};
use stic_crds::Reason;
use stic_crds::conditions::ReasonKind;
use stic_crds::status::{
    ArtifactState, ArtifactStatus, ItemCounts, RunStatus, Shards, StepState, StepStatus,
};

use super::resolved::volume;
use crate::decision::Verdict;
use crate::snapshot::{Snapshot, StepOutcome, StepSnapshot, Steps};
use crate::validated::Validated;

pub(super) fn step(snapshot: &Snapshot, verdict: &Verdict, name: StepName) -> StepStatus {
    let before = snapshot.previous.step(name);
    let step = snapshot.steps.get(&name);
    let now = &snapshot.now;
    let starting = *verdict == Verdict::Launching(name);
    let state = state(snapshot, verdict, name, step);
    let ended = matches!(state, StepState::Succeeded | StepState::Failed);
    let result = step.and_then(result);
    let job = step.and_then(|step| step.job.as_ref());
    StepStatus {
        name,
        state,
        job_name: job.map(|job| job.name.clone()).or_else(|| before.and_then(|step| step.job_name.clone())),
        job_uid: job.map(|job| job.uid.clone()).or_else(|| before.and_then(|step| step.job_uid.clone())),
        attempts: step.map_or(0, |step| step.attempts) + u32::from(starting),
        items: result.and_then(|result| result.items).map(|items| ItemCounts {
            total: items.total,
            done: items.done,
            skipped: items.skipped,
        }),
        shards: result
            .and_then(|result| result.shards.as_ref())
            .map(|shards| Shards { folder: shards.folder.clone(), count: shards.shards }),
        interruptions: step
            .and_then(|step| step.interruptions)
            .or_else(|| before.and_then(|step| step.interruptions)),
        start_time: before
            .and_then(|step| step.start_time.clone())
            .or_else(|| (starting || step.is_some()).then(|| now.clone())),
        completion_time: ended
            .then(|| before.and_then(|step| step.completion_time.clone()).unwrap_or_else(|| now.clone())),
        uncounted_launches: step.map_or(0, |step| step.uncounted),
        progress_at_launch: step.and_then(|step| step.progress_at_launch),
        workload: step.and_then(|step| step.workload.clone()).or_else(|| {
            let is_same =
                |before: &&StepStatus| job.is_none_or(|job| before.job_uid.as_ref() == Some(&job.uid));
            before.filter(is_same).and_then(|before| before.workload.clone())
        }),
        last_problem: match step.map(|step| &step.outcome) {
            Some(StepOutcome::Waiting { reason, message }) => match reason.classification().kind {
                ReasonKind::Waiting => before.and_then(|before| before.last_problem.clone()),
                _ => Some(message.clone()),
            },
            _ => None,
        },
        message: match step.map(|step| &step.outcome) {
            Some(StepOutcome::Failed { message, .. } | StepOutcome::Waiting { message, .. }) if !starting => {
                Some(message.clone())
            }
            _ => result.and_then(|result| message(snapshot, result)),
        },
    }
}

/// The message of a result. That of `prepare` names settings that have no effect.
fn message(snapshot: &Snapshot, result: &StepResult) -> Option<String> {
    let notes = snapshot.valid().filter(|_| result.step == StepName::Prepare).into_iter().flat_map(|run| {
        let ineffective = run.ineffective.iter().cloned();
        ineffective.chain(limit_note(run, result))
    });
    // A result that was read from the last status has them already.
    notes.fold(result.message.clone(), |message, note| match message {
        Some(message) if message.contains(&note) => Some(message),
        Some(message) => Some(format!("{message}; {note}")),
        None => Some(note),
    })
}

/// That the limit on items is larger than what `prepare` found.
#[must_use]
pub fn limit_note(run: &Validated, result: &StepResult) -> Option<String> {
    let found = result.items.filter(|_| result.step == StepName::Prepare)?.total;
    let (field, limit) = limit(run)?;
    (limit > found).then(|| format!("{field} is {limit}, but there are only {found}"))
}

/// The field that limits the number of items, and its value.
fn limit(run: &Validated) -> Option<(&'static str, u64)> {
    let field = match run.run.kind {
        RunKind::StageOneRun => "spec.images.limit",
        RunKind::StageTwoRun => "spec.instructions.limit",
        RunKind::EvaluationRun => return None,
    };
    let (ItemSource::Images { limit, .. }
    | ItemSource::Pairs { limit, .. }
    | ItemSource::Instructions(Instructions { limit, .. })) = &run.work.training()?.items;
    limit.map(|limit| (field, limit))
}

fn result(step: &StepSnapshot) -> Option<&StepResult> {
    match &step.outcome {
        StepOutcome::Succeeded(result) => Some(result),
        _ => None,
    }
}

fn state(snapshot: &Snapshot, verdict: &Verdict, name: StepName, step: Option<&StepSnapshot>) -> StepState {
    let failed = matches!(verdict, Verdict::Failed { .. });
    if *verdict == Verdict::Launching(name) {
        return StepState::Running;
    }
    let Some(step) = step else {
        // A later step was started, or the run has succeeded: what this one creates existed already.
        let skipped = snapshot.steps.keys().any(|later| *later > name);
        let reused = skipped || matches!(verdict, Verdict::Succeeded { .. });
        return if reused { StepState::Reused } else { StepState::Pending };
    };
    let state = match &step.outcome {
        StepOutcome::Starting => StepState::Pending,
        StepOutcome::Running => StepState::Running,
        StepOutcome::Waiting { reason: Reason::NodeLost, .. } => StepState::Running,
        StepOutcome::Waiting { reason, .. } => match reason.classification().kind {
            ReasonKind::Waiting => StepState::Suspended,
            ReasonKind::Progressing => StepState::Running,
            ReasonKind::Trouble | ReasonKind::Failed | ReasonKind::Succeeded => StepState::Pending,
        },
        StepOutcome::Succeeded(_) => StepState::Succeeded,
        StepOutcome::Failed { .. } if failed => StepState::Failed,
        // It is about to be retried.
        StepOutcome::Failed { .. } => StepState::Pending,
    };
    match state {
        // The Jobs of a run that failed are suspended.
        StepState::Running | StepState::Suspended if failed => StepState::Failed,
        state => state,
    }
}

/// The artifacts that the steps reported, or else those of the previous status.
pub(super) fn artifacts(previous: &RunStatus, steps: &Steps, verdict: &Verdict) -> Vec<ArtifactStatus> {
    let mut all: Vec<ArtifactStatus> = Vec::new();
    let reported = steps.values().filter_map(result).flat_map(|result| result.artifacts.as_slice());
    let complete = match verdict {
        Verdict::Succeeded { artifacts } => artifacts.as_slice(),
        _ => &[],
    };
    for artifact in reported.chain(complete).map(artifact_status) {
        match all.iter_mut().find(|other| other.kind == artifact.kind) {
            Some(other) => *other = artifact,
            None => all.push(artifact),
        }
    }
    if all.is_empty() { previous.artifacts.clone() } else { all }
}

fn artifact_status(artifact: &Artifact) -> ArtifactStatus {
    ArtifactStatus {
        kind: artifact.kind,
        volume: volume(&artifact.location),
        digest: artifact.digest.to_string(),
        size_bytes: artifact.size_bytes,
        step: artifact.step,
        state: if artifact.reused { ArtifactState::Reused } else { ArtifactState::Created },
    }
}
