//! What to do next: one pure function of a [`Snapshot`], for the controller and for `kubectl stic run`.
//!
//! Architecture Invariant: every decision about a run is made here: whether it has ended, its deadline, what a run that
//! is under way is pinned to, retries and their limit, and suspension. The callers gather a snapshot and carry the
//! decision out.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use stic_contract::pipeline::StepSpec;
use stic_contract::{RunConfig, StepName};
use stic_crds::conditions::Retry;
use stic_crds::lifecycle::{Children, Retention};
use stic_crds::{ConditionType, Reason};

use crate::build::job::{QUEUE_LABELS, QUEUE_NAME};
use crate::build::names::LaunchId;
use crate::build::run_config::{MissingResult, PreviousResults, run_config};
use crate::decision::{Cleanup, Decision, JobChanges, JobDeadline, Launch, NeededFacts, Suspension, Verdict};
use crate::refusal::Refusal;
use crate::snapshot::{OpenJob, RAN_OUT_OF_MEMORY, Snapshot, StepOutcome, StepSnapshot, suspended_message};
use crate::validated::Validated;

/// Decides what to do next.
///
/// # Errors
/// The decision depends on facts that the snapshot does not have yet: fetch them and decide again. This happens only before
/// a step is started after something has run.
pub fn decide(snapshot: &Snapshot) -> Result<Decision, NeededFacts> {
    let run = match &snapshot.validated {
        None => return Ok(Decision::CleanUp),
        Some(Ok(run)) => run,
        Some(Err(Refusal::Wait { reason, message })) => return Ok(Verdict::waiting(*reason, message).into()),
        Some(Err(refusal @ Refusal::Invalid { reason, .. })) => {
            return Ok(Verdict::Failed { reason: *reason, message: refusal.to_string() }.into());
        }
    };
    let run = pinned(run, snapshot);
    let next = next_step(&run, snapshot);
    if snapshot.time_left() == Some(Duration::ZERO) && !next.is_final() {
        let message = "the run did not end within spec.activeDeadlineSeconds; raise that and spec.retry";
        return Ok(Verdict::Failed { reason: Reason::DeadlineExceeded, message: message.into() }.into());
    }
    match next {
        Next::Start(startable) => start(startable, run, snapshot),
        Next::Replace(step, why) => Ok(Decision::Replace(step, why)),
        Next::Report(verdict @ Verdict::Waiting { .. }) => {
            let changes = JobChanges {
                deadline: new_deadline(&run, snapshot),
                suspension: suspension(&run, snapshot),
                queue_labels: new_queue_labels(&run, snapshot),
            };
            Ok(Decision::Report { verdict, changes })
        }
        Next::Report(verdict) => Ok(verdict.into()),
    }
}

/// The run as it is carried out. One that is under way keeps everything that decides its result.
fn pinned(run: &Validated, snapshot: &Snapshot) -> Validated {
    let mut run = Validated { run: snapshot.run.clone(), ..run.clone() };
    if let Some(Some(started_with)) = &snapshot.facts.started_with {
        let resolved = snapshot.previous.resolved.as_ref();
        run.pin(started_with, resolved.and_then(|resolved| resolved.training_image_layout));
    }
    run
}

/// A step that may start, before it is known whether it may start now.
struct Startable {
    id: LaunchId,
    uncounted: u32,
    config: RunConfig,
    shards: u32,
}

enum Next {
    Start(Startable),
    /// The Job of a step is replaced by its next launch, because of this change.
    Replace(StepName, &'static str),
    Report(Verdict),
}

impl Next {
    const fn is_final(&self) -> bool {
        matches!(self, Self::Report(verdict) if verdict.is_final())
    }
}

/// The first step of the pipeline that is not complete.
fn next_step(run: &Validated, snapshot: &Snapshot) -> Next {
    let mut previous = PreviousResults::default();
    for spec in run.steps() {
        // An artifact that an earlier step found on the volume is not created again.
        if previous.artifacts.contains_key(&spec.produces) {
            continue;
        }
        let Some(step) = snapshot.steps.get(&spec.name) else { return startable(run, spec, 1, 0, &previous) };
        match &step.outcome {
            StepOutcome::Succeeded(result) => previous.add(result),
            StepOutcome::Failed { reason, message, exhausted } => {
                if let Some(uncounted) = may_retry(run, step, *reason, *exhausted) {
                    return startable(run, spec, step.launches() + 1, uncounted, &previous);
                }
                return Next::Report(failed(run, spec.name, *reason, message));
            }
            open => return unfinished(run, snapshot, spec.name, open),
        }
        if let Some(verdict) = model_changed(run, &previous) {
            return Next::Report(verdict);
        }
    }
    let mut found = previous.artifacts;
    let artifacts = run.steps().filter_map(|spec| found.remove(&spec.produces)).collect();
    Next::Report(Verdict::Succeeded { artifacts })
}

/// The verdict on a run whose step `step` has not ended.
#[must_use]
pub fn open_verdict(step: StepName, outcome: &StepOutcome, suspended: bool) -> Verdict {
    match outcome {
        // A suspended run does not wait for a queue that must not admit it.
        StepOutcome::Waiting { reason: Reason::Queued, .. } if suspended => suspended_verdict(step),
        // The Job is about to be resumed.
        StepOutcome::Waiting { reason: Reason::Suspended, .. } if !suspended => {
            Verdict::waiting(Reason::of_step(step), format!("step {step} is being resumed"))
        }
        StepOutcome::Waiting { reason, message } => Verdict::waiting(*reason, message),
        StepOutcome::Starting => Verdict::waiting(Reason::of_step(step), format!("step {step} is starting")),
        _ => Verdict::running(step),
    }
}

fn suspended_verdict(step: StepName) -> Verdict {
    Verdict::waiting(Reason::Suspended, suspended_message(step))
}

/// A step that has not ended: its Job is replaced if it cannot follow a change of the run, and none of its pods runs.
fn unfinished(run: &Validated, snapshot: &Snapshot, step: StepName, outcome: &StepOutcome) -> Next {
    let suspended = run.operation.suspend;
    let job = snapshot.open_job.as_ref().filter(|_| !suspended);
    let change = job.and_then(|job| Some((job, change(run, job)?)));
    match (change, open_verdict(step, outcome, suspended)) {
        (Some((job, why)), _) if job.idle => Next::Replace(step, why),
        (Some((_, why)), Verdict::Waiting { reason, message, poll }) => {
            let message = format!("{message}; {why}, which takes effect when its pods have ended");
            Next::Report(Verdict::Waiting { reason, message, poll })
        }
        (_, Verdict::Waiting { reason, message, poll }) => {
            let message = message + &later_limit(run, snapshot);
            Next::Report(Verdict::Waiting { reason, message, poll })
        }
        (_, verdict) => Next::Report(verdict),
    }
}

/// Says when a limit of retries applies that was changed while a Job runs, which keeps the limit that it was created with.
fn later_limit(run: &Validated, snapshot: &Snapshot) -> String {
    let (limit, open) = (run.operation.backoff_limit, snapshot.open_job.as_ref());
    match open.and_then(|job| job.retry_limit) {
        Some(current) if current != limit => format!(
            "; spec.backoff.limit {limit} applies from the next Job on, this one retries {current} times: to continue after that, raise spec.retry"
        ),
        _ => String::new(),
    }
}

/// What has changed about the run that its Job cannot follow.
fn change(run: &Validated, job: &OpenJob) -> Option<&'static str> {
    if job.outdated {
        return Some("spec.pod has changed");
    }
    // Where the Job runs, it stays as it is. Kueue would start one that the operator suspended as soon as it had a queue, and
    // keeps the Workload, with its quota, of one that has none any more.
    match run.operation.queue_labels.get(QUEUE_NAME) {
        None => (job.suspended && job.queued_by_run).then_some("the run has left its queue"),
        Some(queue) if job.delegated => {
            (job.queue_labels.get(QUEUE_NAME) != Some(queue)).then_some("the run has got another queue")
        }
        Some(_) => (job.held && !job.queued).then_some("the run has got a queue"),
    }
}

/// Whether a step that failed is started again, and how many of its launches then no longer count against the limit.
fn may_retry(run: &Validated, step: &StepSnapshot, reason: Reason, exhausted: bool) -> Option<u32> {
    let (launches, uncounted) = (step.launches(), step.uncounted);
    if launches <= uncounted {
        return Some(uncounted);
    }
    let limit = run.operation.backoff_limit;
    let limit = match reason.classification().retry {
        Retry::Never => return None,
        // It got no further in several attempts, whatever the first of them did. Its Job has not ended.
        Retry::WithinLimit if exhausted && matches!(reason, Reason::Interrupted | Reason::DeviceFailed) => {
            return None;
        }
        // Kubernetes has used up the retries of the Job. Another Job gets as many only if this one came further.
        Retry::WithinLimit if exhausted => {
            return (limit > 0 && step.has_progressed).then_some(launches);
        }
        Retry::WithinLimit => limit,
        Retry::AtLeast(least) => limit.max(least),
    };
    (!exhausted && launches - uncounted <= limit).then_some(uncounted)
}

fn startable(
    run: &Validated,
    spec: &StepSpec,
    number: u32,
    uncounted: u32,
    previous: &PreviousResults,
) -> Next {
    if run.operation.suspend {
        return Next::Report(suspended_verdict(spec.name));
    }
    match run_config(run, spec.name, previous) {
        Ok(config) => {
            let shards = if spec.sharded { run.shards } else { 1 };
            Next::Start(Startable { id: LaunchId { step: spec.name, number }, uncounted, config, shards })
        }
        Err(missing @ MissingResult { .. }) => Next::Report(Verdict::Failed {
            reason: Reason::ResultIncomplete,
            message: format!(
                "{missing}; use the trainer image of the operator's version, then raise spec.rerun"
            ),
        }),
    }
}

/// Starts a step, once every fact that could keep it from starting is known.
fn start(
    Startable { id, uncounted, config, shards }: Startable,
    run: Validated,
    snapshot: &Snapshot,
) -> Result<Decision, NeededFacts> {
    let LaunchId { step, number } = id;
    let facts = &snapshot.facts;
    let is_retry = number > 1;
    let is_under_way = step != StepName::Prepare || is_retry;
    let has_predecessors = is_retry || run.run.rerun > 0;
    let needed = NeededFacts {
        started_with: is_under_way && facts.started_with.is_none(),
        is_newest: is_retry && facts.is_newest.is_none(),
        pods_ended: (has_predecessors && facts.pods_ended.is_none()).then_some(step),
    };
    let pods_run = snapshot.running_pods.contains(&step) || facts.pods_ended == Some(false);
    if !pods_run && needed != NeededFacts::default() {
        return Err(needed);
    }
    // The watches of runs and of Jobs are independent: a correction that was made before a Job was deleted may arrive
    // after the deletion.
    if facts.is_newest == Some(false) {
        return Ok(Decision::AwaitWatch);
    }
    if pods_run {
        let message = format!("step {step} starts once the pods of its previous Job have ended");
        return Ok(Verdict::Waiting { reason: Reason::of_step(step), message, poll: true }.into());
    }
    Ok(Decision::Launch(Box::new(Launch {
        id,
        uncounted,
        run,
        config,
        shards,
        deadline_seconds: snapshot.time_left().map(job_deadline),
    })))
}

fn failed(run: &Validated, step: StepName, reason: Reason, message: &str) -> Verdict {
    let message = if message.is_empty() { "it left no message" } else { message };
    let message = match reason {
        Reason::TrainerFailed => format!("step {step} failed: {message}; see the log of the step"),
        Reason::PodRejected => format!("step {step} failed: {message}, then raise spec.retry"),
        // A trainer whose GPU ran out of memory says itself what to do.
        Reason::OutOfMemory if message.ends_with(RAN_OUT_OF_MEMORY) => {
            let field =
                run.operation.memory_limits.get(&step).map_or("spec.pod.resources.limits.memory", |it| it);
            format!("step {step} failed: {message}; raise {field} and spec.retry")
        }
        _ => format!("step {step} failed: {message}"),
    };
    Verdict::Failed { reason, message }
}

fn model_changed(run: &Validated, previous: &PreviousResults) -> Option<Verdict> {
    let model = &run.work.training()?.model;
    let (expected, found) = (model.digest.as_ref()?, &previous.inputs.as_ref()?.model);
    (expected != found).then(|| Verdict::Failed {
        reason: Reason::ModelChanged,
        message: format!(
            "the model at {} has digest {found}, but the adapter was trained on {expected}; restore that model, or run stage 1 on this one",
            model.location
        ),
    })
}

/// The deadline of a Job that starts `left` before that of its run: two seconds later, so that the operator reports that of the
/// run. Kubernetes counts from a start in whole seconds.
fn job_deadline(left: Duration) -> u32 {
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(2)
}

/// The deadline of the Job that has not ended, if that of its run has changed.
fn new_deadline(run: &Validated, snapshot: &Snapshot) -> Option<JobDeadline> {
    let job = snapshot.open_job.as_ref()?;
    let of_run = run.operation.active_deadline_seconds;
    let started = job.started.as_ref().map_or(snapshot.now.0, |started| started.0);
    let elapsed = Duration::try_from(snapshot.now.0.duration_since(started)).unwrap_or_default();
    let seconds = snapshot.time_left().map(|left| job_deadline(elapsed.saturating_add(left)));
    (job.deadline_of_run != of_run).then_some(JobDeadline { of_run, seconds })
}

/// What to change about the Job that has not ended, so that it is suspended exactly if its run is.
fn suspension(run: &Validated, snapshot: &Snapshot) -> Option<Suspension> {
    let job = snapshot.open_job.as_ref()?;
    let OpenJob { queued, suspended, held, .. } = job;
    let wanted = snapshot.is_suspended();
    let recorded = snapshot.previous.condition(ConditionType::Suspended);
    let was_wanted = recorded.is_some_and(|condition| condition.status == "True");
    let refused = snapshot.previous.phase() == Some(Reason::KueueForbidden.as_str());
    let differs = if wanted {
        // Reading the Workload costs requests, so it is done only when it can differ. Kueue may create it after the run
        // was suspended, and then admits a Job that must not run.
        !suspended || (*queued && (!was_wanted || refused))
    } else if *held || snapshot.steps.values().any(|step| step.workload_held) {
        // One that is replaced when its pods have ended must not start others.
        change(run, job).is_none()
    } else {
        // What something else suspended stays so: undoing it would be a fight without an end.
        (was_wanted && (*queued || *suspended)) || refused
    };
    differs.then_some(if wanted { Suspension::Suspend } else { Suspension::Resume })
}

/// Kueue's labels to change on the Job that has not ended, so that it waits where its run says. Kueue accepts that only
/// while the Job is suspended, and would start one that the operator suspended.
fn new_queue_labels(run: &Validated, snapshot: &Snapshot) -> BTreeMap<String, String> {
    let waits = |job: &&OpenJob| job.suspended && (job.queued || !job.held);
    let Some(job) = snapshot.open_job.as_ref().filter(waits) else { return BTreeMap::new() };
    let labels = run.operation.queue_labels.iter();
    labels
        .filter(|(key, value)| {
            QUEUE_LABELS.contains(&key.as_str()) && job.queue_labels.get(*key) != Some(value)
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// What becomes of the children of a run that ended at `ended`.
#[must_use]
pub fn cleanup(retention: &Retention, ended: Option<&Time>, now: &Time) -> Cleanup {
    if retention.children == Children::Keep {
        return Cleanup::Keep;
    }
    let keep = SignedDuration::from_secs(i64::from(retention.after_finished_seconds.unwrap_or_default()));
    let elapsed = ended.map_or(SignedDuration::ZERO, |ended| now.0.duration_since(ended.0));
    match Duration::try_from(keep - elapsed) {
        Ok(left) if left > Duration::ZERO => Cleanup::DeleteAfter(left),
        _ => Cleanup::DeleteNow,
    }
}
