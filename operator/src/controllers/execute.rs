//! Carries out decisions: every write except those to claims and statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use stic_contract::StepName;
use stic_crds::Reason;

use super::blocked::{Blocked, created};
use super::claims;
use super::error::Error;
use super::gather::Gathered;
use super::run::Run;
use super::status_record::StatusRecord;
use crate::build::config_map::config_map;
use crate::build::job::{JobSettings, QUEUE_NAME, job};
use crate::build::pod_check::check_pods;
use crate::cluster::api_writer::{self, Created};
use crate::cluster::job_state::{self, Reading};
use crate::cluster::objects::Job;
use crate::cluster::results::pods_of;
use crate::cluster::workloads::Found;
use crate::context::Context;
use crate::decide::open_verdict;
use crate::decision::{JobChanges, JobDeadline, Launch, Suspension, Verdict};
use crate::failpoint::Write;
use crate::snapshot::{JobRef, StepOutcome, StepSnapshot};

/// Starts a step, adds it to the snapshot, and returns the verdict to report.
pub(super) async fn launch<K: Run>(
    context: &Context,
    record: &mut StatusRecord<'_, K>,
    gathered: &mut Gathered,
    launch: Launch,
) -> Result<Verdict, Error> {
    let step = launch.id.step;
    gathered.snapshot.validated = Some(Ok(launch.run.clone()));
    // Record what the run is resolved to before anything is created from it.
    if gathered.snapshot.previous.resolved.is_none() {
        let message = format!("step {step} is about to start");
        let verdict = Verdict::Waiting { reason: Reason::of_step(step), message, poll: false };
        record.write(context, gathered.status(context, &verdict)).await?;
    }
    let images = context.settings.trainer_images.pinned(record.status.resolved.as_ref());
    let trainer_image = images.of_step(&launch.run, step);
    let job = match create_objects(context, &launch, trainer_image).await? {
        Ok(job) => job,
        Err(Blocked { reason, message }) => return Ok(Verdict::blocked(reason, message)),
    };
    let outcome = match job_state::read(step, &job, &[], &gathered.snapshot.now).reading {
        Reading::Outcome(outcome) if outcome.is_open() => outcome,
        // The Job was created before and has finished since: the watch is about to deliver it with its pods.
        Reading::Outcome(_) | Reading::ResultMissing { .. } => StepOutcome::Running,
    };
    let verdict = open_verdict(step, &outcome, gathered.snapshot.is_suspended());
    let attempts = gathered.snapshot.steps.get(&step).map_or(0, |step| step.attempts) + 1;
    let job_ref =
        JobRef { name: job.name_any(), uid: job.uid().unwrap_or_default(), launch: launch.id.number };
    let reached = gathered.snapshot.previous.progress.as_ref().filter(|progress| progress.step == step);
    let started = StepSnapshot {
        job: Some(job_ref),
        uncounted: launch.uncounted,
        progress_at_launch: reached.map(|progress| progress.current_step),
        last_failure: gathered.snapshot.steps.get(&step).and_then(|before| before.last_failure.clone()),
        ..StepSnapshot::new(attempts, outcome)
    };
    gathered.snapshot.steps.insert(step, started);
    Ok(verdict)
}

/// Creates the objects of a launch. The Job comes last, so that everything its pods need exists when they start.
async fn create_objects(
    context: &Context,
    launch: &Launch,
    trainer_image: String,
) -> Result<Result<Box<Job>, Blocked>, Error> {
    let Launch { id, uncounted: _, run, config, shards, deadline_seconds } = launch;
    if let Err(message) = check_pods(run) {
        return Ok(Err(Blocked { reason: Reason::PodInvalid, message }));
    }
    let checked = claims::ensure(context, run, *shards).await;
    let claims::Mountable { one_node, read_only: read_only_claims } =
        match checked.map_err(Error::of("check or create the claims of the run"))? {
            Ok(mountable) => mountable,
            Err(blocked) => return Ok(Err(blocked)),
        };
    let uid = &run.run.uid;
    let map = config_map(run, config, *id).map_err(kube::Error::SerdeError)?;
    let outcome = context.writer.create(Write::CreateConfigMap, &map, uid).await;
    let outcome: Created<ConfigMap> = outcome.map_err(Error::of("create the ConfigMap"))?;
    if let Err(blocked) = created(outcome, "ConfigMap", &map.name_any()) {
        return Ok(Err(blocked));
    }
    let settings =
        JobSettings { trainer_image, one_node, read_only_claims, deadline_seconds: *deadline_seconds };
    let job = job(run, *id, &settings);
    let outcome = context.writer.create(Write::CreateJob, &job, uid).await;
    let outcome: Created<Job> = outcome.map_err(Error::of("create the Job"))?;
    let job = created(outcome, "Job", &job.name_any());
    if let Ok(job) = &job {
        context.metrics.job_created(run.run.kind, id.step);
        context.writer.keep_job(job).await.map_err(Error::of("change ttlSecondsAfterFinished of the Job"))?;
    }
    Ok(job)
}

/// Deletes the Job of a step, which is launched again once it is gone. Its launches no longer count, because whoever
/// changed the spec has asked for another one.
pub(super) async fn replace<K: Run>(
    context: &Context,
    record: &mut StatusRecord<'_, K>,
    gathered: &mut Gathered,
    (step, why): (StepName, &str),
) -> Result<Verdict, Error> {
    if let Some(snapshot) = gathered.snapshot.steps.get_mut(&step) {
        snapshot.uncounted = snapshot.launches();
    }
    let message = format!("{why}, and step {step} is launched again");
    let verdict = Verdict::Waiting { reason: Reason::of_step(step), message, poll: true };
    record.write(context, gathered.status(context, &verdict)).await?;
    let job: Vec<Arc<Job>> = gathered.open_job.iter().cloned().collect();
    delete_jobs(context, &job).await?;
    Ok(verdict)
}

/// Changes the Job that has not ended as it was decided. Returns the verdict on a change that was refused.
pub(super) async fn change_open_job(
    context: &Context,
    job: Option<&Arc<Job>>,
    JobChanges { deadline, suspension, queue_labels }: JobChanges,
) -> Result<Option<Verdict>, Error> {
    let Some(job) = job else { return Ok(None) };
    // Before it is resumed, so that it starts with it.
    let refused = match deadline {
        Some(deadline) => set_deadline(context, job, deadline).await?,
        None => None,
    };
    if let Some(suspension) = suspension {
        let changed = set_suspension(context, job, suspension).await;
        if let Err(Blocked { reason, message }) = changed.map_err(Error::of("suspend or resume the Job"))? {
            return Ok(Some(Verdict::blocked(reason, message)));
        }
    }
    if queue_labels.is_empty() {
        return Ok(refused);
    }
    match move_job(context, job, &queue_labels).await {
        Err(kube::Error::Api(status)) if api_writer::is_refusal(&status) => {
            let message = format!(
                "Job {} cannot be moved: {}; correct the labels of the run",
                job.name_any(),
                status.message
            );
            Ok(Some(Verdict::blocked(Reason::JobRejected, message)))
        }
        moved => moved.map(|()| refused).map_err(Error::of("label the Job")),
    }
}

/// Changes the deadline of a Job. Returns the verdict on a change that was refused, which keeps nothing else from being done.
async fn set_deadline(
    context: &Context,
    job: &Arc<Job>,
    deadline: JobDeadline,
) -> Result<Option<Verdict>, Error> {
    match context.writer.set_deadline(job, deadline).await {
        Err(kube::Error::Api(status)) if api_writer::is_refusal(&status) => {
            let message = format!(
                "the deadline of Job {} cannot be changed: {}; set spec.activeDeadlineSeconds to what is allowed",
                job.name_any(),
                status.message
            );
            Ok(Some(Verdict::blocked(Reason::JobRejected, message)))
        }
        changed => changed.map(|()| None).map_err(Error::of("change activeDeadlineSeconds of the Job")),
    }
}

/// Changes Kueue's labels on a Job. Kueue moves its Workload, but not one that it has evicted. That comes first, because the
/// labels of the Job say that it is done.
async fn move_job(context: &Context, job: &Arc<Job>, labels: &BTreeMap<String, String>) -> kube::Result<()> {
    if let Some(queue) = labels.get(QUEUE_NAME)
        && let Found::Workloads(workloads) = context.workloads.of_job(job).await?
    {
        for workload in workloads.iter().filter(|workload| workload.is_evicted()) {
            context.writer.move_workload(workload, queue).await?;
        }
    }
    context.writer.label_job(job, labels).await
}

/// Suspends a Job, or undoes that. The Job of a queue is suspended by way of its Workload: the Job itself is Kueue's.
pub(super) async fn set_suspension(
    context: &Context,
    job: &Arc<Job>,
    suspension: Suspension,
) -> kube::Result<Result<(), Blocked>> {
    let suspend = suspension == Suspension::Suspend;
    let workloads = match context.workloads.of_job(job).await? {
        Found::Workloads(workloads) => workloads,
        Found::Forbidden(message) if job.is_queued() => return Ok(Err(forbidden(&message))),
        Found::Forbidden(_) | Found::NotInstalled => Vec::new(),
    };
    for workload in &workloads {
        // An administrator's deactivation is not undone.
        let differs = if suspend { workload.is_active } else { workload.is_held };
        if !differs {
            continue;
        }
        match context.writer.suspend_workload(workload, suspend).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Ok(Err(forbidden(&status.message)));
            }
            written => written?,
        }
    }
    // A Job without a queue may still be managed by Kueue, which then suspends and resumes it.
    let is_own = !job.is_queued() && workloads.is_empty();
    if is_own || (!suspend && job.is_held()) {
        context.writer.suspend_job(job, suspend).await?;
    }
    Ok(Ok(()))
}

fn forbidden(message: &str) -> Blocked {
    Blocked {
        reason: Reason::KueueForbidden,
        message: format!(
            "the operator may not change Kueue's Workloads, so that the run cannot be suspended or resumed: {message}; set the chart value kueue.enabled to true"
        ),
    }
}

/// Ends the Job of a run that has ended. One that waits in a queue is deleted, because it would start a pod later, or
/// keep others from starting.
pub(super) async fn end_job(context: &Context, job: &Arc<Job>) -> kube::Result<()> {
    let is_waiting = job.spec.suspend && !job.is_held();
    if job.is_queued() || is_waiting {
        // The log of a pod that failed is worth keeping, and a Workload that is deactivated is in nobody's way.
        let has_logs = pods_of(&context.pods, job).iter().any(|pod| pod.status.is_finished());
        let deactivated = match context.workloads.of_job(job).await? {
            Found::Workloads(workloads) if has_logs && !workloads.is_empty() => {
                set_suspension(context, job, Suspension::Suspend).await?.is_ok()
            }
            _ => false,
        };
        return if deactivated { Ok(()) } else { context.writer.delete_job(job).await };
    }
    // Suspending a Job ends its pods. The Job stays, with the logs of pods that failed.
    if job.spec.suspend {
        return Ok(());
    }
    // Only what Kueue may forbid is refused, and that was handled above.
    set_suspension(context, job, Suspension::Suspend).await.map(drop)
}

pub(super) async fn delete_jobs(context: &Context, jobs: &[Arc<Job>]) -> kube::Result<()> {
    for job in jobs {
        context.writer.delete_job(job).await?;
    }
    Ok(())
}
