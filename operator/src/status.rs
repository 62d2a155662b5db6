//! The status of a run: a pure function of the last one and of what was observed.

pub mod display;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use stic_contract::config::DataRecipe;
use stic_contract::recipe::{self, Objective};
use stic_contract::result::InputDigests;
use stic_contract::{Artifact, Progress, RunKind, StepName, VolumePath, pipeline};
use stic_crds::Decimal;
use stic_crds::model::ModelImage;
use stic_crds::status::{
    ArtifactState, ArtifactStatus, INPUTS_READY, InputFolder, InputItems, Inputs, ItemCounts, RECONCILING,
    Resolved, RunStatus, STALLED, SUCCEEDED, SUSPENDED, Shards, StepState, StepStatus,
};
use stic_crds::training::Precision;
use stic_crds::volumes::VolumeFolder;

use crate::plan::{Observed, Plan, StepObservation, StepOutcome};
use crate::refusal::{Reason, Refusal};
use crate::validated::Validated;

/// All that a status is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The kind.
    pub kind: RunKind,
    /// The generation of the spec.
    pub generation: i64,
    /// The rerun that the spec asks for.
    pub rerun: u32,
    /// The run, or why it is none.
    pub run: &'a Result<Validated, Refusal>,
    /// What was observed.
    pub observed: &'a Observed,
    /// What was decided.
    pub plan: &'a Plan,
    /// What the running step reports.
    pub progress: Option<&'a Progress>,
    /// The trainer's image, once pinned.
    pub trainer_image: Option<&'a str>,
    /// The time.
    pub now: &'a Time,
}

/// The status that follows `previous`. Times change only where something else does.
#[must_use]
pub fn status(previous: &RunStatus, facts: &Facts<'_>) -> RunStatus {
    let Facts { kind, generation, rerun, run, observed, plan, progress, trainer_image, now } = *facts;
    // Nothing of an earlier rerun is carried over.
    let anew = RunStatus::default();
    let previous = if previous.rerun == rerun { previous } else { &anew };
    let verdict = Verdict::of(plan);
    let over = verdict.succeeded != "Unknown";
    let progress = progress.filter(|_| !over).map(display::progress);
    let steps: Vec<StepStatus> =
        pipeline::steps(kind).iter().map(|spec| step(previous, observed, plan, spec.name, now)).collect();
    let artifacts = artifacts(previous, observed, plan);
    let run = run.as_ref().ok();
    RunStatus {
        observed_generation: generation,
        rerun,
        conditions: conditions(previous, generation, &verdict, observed, run, now),
        start_time: previous.start_time.clone().or_else(|| Some(now.clone())),
        completion_time: over.then(|| previous.completion_time.clone().unwrap_or_else(|| now.clone())),
        resolved: run.map(|run| resolved(run, previous, trainer_image)).or_else(|| previous.resolved.clone()),
        inputs: run.map(|run| inputs(run, observed)).or_else(|| previous.inputs.clone()),
        display: Some(display::display(
            verdict.reason,
            progress.as_ref().or(previous.progress.as_ref()),
            run.and_then(|run| batch(run, observed)),
            over,
        )),
        progress: progress.or_else(|| previous.progress.clone()),
        steps,
        artifacts,
    }
}

struct Verdict {
    succeeded: &'static str,
    reason: Reason,
    message: String,
    starts: bool,
}

impl Verdict {
    fn of(plan: &Plan) -> Self {
        match plan {
            Plan::Start(launch) | Plan::Retry(launch) => Self {
                succeeded: "Unknown",
                reason: Reason::of_step(launch.step),
                message: format!("step {} starts", launch.step),
                starts: true,
            },
            Plan::Wait { reason, message } => {
                Self { succeeded: "Unknown", reason: *reason, message: message.clone(), starts: false }
            }
            Plan::Done { artifacts } => Self {
                succeeded: "True",
                reason: Reason::Succeeded,
                message: artifacts.last().map_or_else(
                    || "all steps are done".to_owned(),
                    |last| format!("the {} is at {}", last.kind.folder_prefix(), last.location),
                ),
                starts: false,
            },
            Plan::Fail { reason, message } => {
                Self { succeeded: "False", reason: *reason, message: message.clone(), starts: false }
            }
        }
    }
}

fn conditions(
    previous: &RunStatus,
    generation: i64,
    verdict: &Verdict,
    observed: &Observed,
    run: Option<&Validated>,
    now: &Time,
) -> Vec<Condition> {
    let prepared = matches!(
        observed.steps.get(&StepName::Prepare),
        Some(StepObservation { outcome: StepOutcome::Succeeded(_), .. })
    );
    let inputs = match verdict.reason {
        Reason::StageOneNotSucceeded
        | Reason::ClaimMissing
        | Reason::ClaimLost
        | Reason::ClaimTerminating
        | Reason::ClaimUnbound
        | Reason::ClaimNotShareable => ("False", verdict.reason, verdict.message.clone()),
        _ if prepared => ("True", Reason::InputsReady, "every input is there and was checked".to_owned()),
        Reason::ModelChanged | Reason::DataInvalid | Reason::ConfigInvalid => {
            ("False", verdict.reason, verdict.message.clone())
        }
        _ => ("Unknown", Reason::Preparing, "step prepare has not checked the inputs yet".to_owned()),
    };
    let suspended = run.is_some_and(|run| run.operation.suspend);
    let failed = verdict.succeeded == "False";
    let started = !observed.steps.is_empty();
    let lost = verdict.reason == Reason::NodeLost;
    let setting_up = verdict.succeeded == "Unknown"
        && !started
        && !suspended
        && verdict.reason != Reason::StageOneNotSucceeded;
    let reconciling = lost || setting_up;
    let yes_no = |yes: bool| if yes { "True" } else { "False" };
    let all = [
        (SUCCEEDED, verdict.succeeded, verdict.reason, verdict.message.clone()),
        (INPUTS_READY, inputs.0, inputs.1, inputs.2),
        (
            SUSPENDED,
            yes_no(suspended),
            if suspended { Reason::Suspended } else { Reason::NotSuspended },
            if suspended { "held; set spec.suspend to false to go on" } else { "not held" }.to_owned(),
        ),
        (
            RECONCILING,
            yes_no(reconciling),
            verdict.reason,
            match () {
                () if lost || (setting_up && !verdict.starts) => verdict.message.clone(),
                () if setting_up => "the first step is about to start".to_owned(),
                () => "nothing is left to set up".to_owned(),
            },
        ),
        (
            STALLED,
            yes_no(failed),
            verdict.reason,
            if failed { verdict.message.clone() } else { "nothing is in the way".to_owned() },
        ),
    ];
    all.into_iter()
        .map(|(kind, status, reason, message)| {
            let since = previous
                .condition(kind)
                .filter(|condition| condition.status == status)
                .map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
            Condition {
                type_: kind.into(),
                status: status.into(),
                reason: reason.as_str().into(),
                message,
                observed_generation: Some(generation),
                last_transition_time: since,
            }
        })
        .collect()
}

fn step(previous: &RunStatus, observed: &Observed, plan: &Plan, name: StepName, now: &Time) -> StepStatus {
    let before = previous.steps.iter().find(|step| step.name == name);
    let seen = observed.steps.get(&name);
    let starting = matches!(plan, Plan::Start(launch) | Plan::Retry(launch) if launch.step == name);
    let state = match seen.map(|seen| &seen.outcome) {
        _ if starting => StepState::Running,
        Some(StepOutcome::Running) => StepState::Running,
        Some(StepOutcome::Waiting { reason: Reason::Suspended | Reason::Queued, .. }) => StepState::Suspended,
        Some(StepOutcome::Waiting { reason, .. })
            if *reason == Reason::of_step(name) || *reason == Reason::NodeLost =>
        {
            StepState::Running
        }
        Some(StepOutcome::Waiting { .. }) => StepState::Pending,
        Some(StepOutcome::Succeeded(_)) => StepState::Succeeded,
        Some(StepOutcome::Failed { .. }) if matches!(plan, Plan::Fail { .. }) => StepState::Failed,
        // It is tried again as soon as that may be.
        Some(StepOutcome::Failed { .. }) => StepState::Pending,
        None if matches!(plan, Plan::Done { .. }) => StepState::Reused,
        None if passed_over(observed, name) => StepState::Reused,
        None => StepState::Pending,
    };
    // Of a run that is over no step runs on: its Jobs are ended.
    let state = match (plan, state) {
        (Plan::Fail { .. }, StepState::Running | StepState::Suspended) => StepState::Failed,
        (_, state) => state,
    };
    let over = matches!(state, StepState::Succeeded | StepState::Failed);
    let result = match seen.map(|seen| &seen.outcome) {
        Some(StepOutcome::Succeeded(result)) => Some(result.as_ref()),
        _ => None,
    };
    let message = match seen.map(|seen| &seen.outcome) {
        Some(StepOutcome::Failed { message, .. } | StepOutcome::Waiting { message, .. }) if !starting => {
            Some(message.clone())
        }
        _ => result.and_then(|result| result.message.clone()),
    };
    let attempts = match plan {
        Plan::Start(launch) | Plan::Retry(launch) if launch.step == name => {
            seen.map_or(0, |seen| seen.attempts) + 1
        }
        _ => seen.map_or(0, |seen| seen.attempts),
    };
    let job = seen.and_then(|seen| seen.job.as_ref());
    StepStatus {
        name,
        state,
        job_name: job.map(|job| job.name.clone()).or_else(|| before.and_then(|step| step.job_name.clone())),
        job_uid: job.map(|job| job.uid.clone()).or_else(|| before.and_then(|step| step.job_uid.clone())),
        attempts,
        items: result.and_then(|result| result.items).map(|items| ItemCounts {
            total: items.total,
            done: items.done,
            skipped: items.skipped,
        }),
        shards: result
            .and_then(|result| result.shards.as_ref())
            .map(|shards| Shards { folder: shards.folder.clone(), count: shards.shards }),
        interruptions: seen
            .and_then(|seen| seen.interruptions)
            .or_else(|| before.and_then(|step| step.interruptions)),
        start_time: before
            .and_then(|step| step.start_time.clone())
            .or_else(|| (starting || seen.is_some()).then(|| now.clone())),
        completion_time: over
            .then(|| before.and_then(|step| step.completion_time.clone()).unwrap_or_else(|| now.clone())),
        message,
    }
}

/// Whether a later step was started, so that what this one makes must have been there.
fn passed_over(observed: &Observed, name: StepName) -> bool {
    observed.steps.keys().any(|later| *later > name)
}

fn artifacts(previous: &RunStatus, observed: &Observed, plan: &Plan) -> Vec<ArtifactStatus> {
    let mut all: Vec<ArtifactStatus> = Vec::new();
    let reported = observed.steps.values().flat_map(|seen| match &seen.outcome {
        StepOutcome::Succeeded(result) => result.artifacts.as_slice(),
        _ => &[],
    });
    let done = match plan {
        Plan::Done { artifacts } => artifacts.as_slice(),
        _ => &[],
    };
    for artifact in reported.chain(done) {
        let artifact = artifact_status(artifact);
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

fn volume(location: &VolumePath) -> VolumeFolder {
    VolumeFolder { claim_name: location.volume.clone(), path: location.path.clone() }
}

fn resolved(run: &Validated, previous: &RunStatus, trainer_image: Option<&str>) -> Resolved {
    // Once the trainer's image is pinned a run is under way, and what it was resolved to does not move under it.
    if let Some(pinned) = previous.resolved.as_ref().filter(|resolved| resolved.trainer_image.is_some()) {
        return pinned.clone();
    }
    let (share, generation_template) = match &run.data {
        DataRecipe::Preferences(recipe) => (Some(recipe.corrupted_share), recipe.chat_template),
        DataRecipe::Descriptions(recipe) => (None, recipe.chat_template),
    };
    Resolved {
        profile: run.profile,
        precision: match run.precision {
            recipe::Precision::F32 => Precision::F32,
            recipe::Precision::Bf16 => Precision::Bf16,
        },
        trainer_image: trainer_image.map(Into::into),
        corrupted_share: share.map(|share| Decimal::new(share.to_string())),
        generation_template,
        training_template: run.train.chat_template,
        training_image_layout: run.layouts.training,
        training_with_image: run.train.with_image,
        max_length: run.train.max_length,
        rejected_term: match &run.train.objective {
            Objective::Dpo(dpo) => Some(dpo.rejected_term),
            Objective::Sft { .. } => None,
        },
        learning_rate: Decimal::new(format!("{:e}", run.train.optimizer.learning_rate)),
    }
}

fn inputs(run: &Validated, observed: &Observed) -> Inputs {
    let found: Option<&InputDigests> = match observed.steps.get(&StepName::Prepare) {
        Some(StepObservation { outcome: StepOutcome::Succeeded(result), .. }) => result.inputs.as_ref(),
        _ => None,
    };
    let items = found.map(|found| InputItems { count: found.item_count, digest: found.items.to_string() });
    let (images, instructions) = match run.run.kind {
        RunKind::StageOneRun => (items, None),
        RunKind::StageTwoRun => (None, items),
    };
    let model_digest = found.map(|found| &found.model).or(run.model.digest.as_ref());
    Inputs {
        model: Some(InputFolder {
            volume: run.model.image.is_none().then(|| volume(&run.model.location)),
            image: run.model.image.as_ref().map(|reference| ModelImage {
                reference: reference.clone(),
                path: run.model.location.path.clone(),
            }),
            digest: model_digest.map(ToString::to_string),
        }),
        adapter: run.adapter.as_ref().map(|adapter| InputFolder {
            volume: Some(volume(&adapter.location)),
            image: None,
            digest: found
                .and_then(|found| found.adapter.as_ref())
                .or(adapter.digest.as_ref())
                .map(ToString::to_string),
        }),
        images,
        instructions,
    }
}

/// How many pairs stage 1 trains on at a time, and in all.
fn batch(run: &Validated, observed: &Observed) -> Option<display::Batch> {
    let all = inputs(run, observed).images?.count;
    Some(display::Batch {
        size: u64::from(run.train.global_batch_size),
        all,
        epochs: u64::from(run.train.epochs),
    })
}

/// A status without the conditions of others: they neither decide anything nor are ours to write.
#[must_use]
pub fn own(mut status: RunStatus) -> RunStatus {
    let ours = [SUCCEEDED, INPUTS_READY, SUSPENDED, RECONCILING, STALLED];
    status.conditions.retain(|condition| ours.contains(&condition.type_.as_str()));
    status
}

/// Whether two statuses differ in more than times of progress, so that a patch is worth its cost.
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
