//! Observes the steps of a run by its Jobs and pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stic_contract::progress::PROGRESS_PORT;
use stic_contract::{Progress, RunIdentity, StepName, pipeline};
use stic_crds::status::{StepState, StepStatus};
use stic_crds::{Reason, RunStatus};

use super::{interruptions, pending_pods, status_results};
use crate::build::labels;
use crate::build::names::{self, LaunchId};
use crate::cluster::job_state::{self, JobState, Reading};
use crate::cluster::missing_pods::{MissingPods, missing_pods};
use crate::cluster::objects::{Job, Pod};
use crate::cluster::results::pods_of;
use crate::cluster::workloads::{self, Found};
use crate::context::Context;
use crate::snapshot::{JobRef, StepOutcome, StepSnapshot, Steps};

/// How much longer than the completion of its Job a result may take to arrive. After that it is lost, and the step runs again:
/// that costs more than to wait for a slow watch.
const RESULT_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// More launches than any limit of retries allows.
const MAX_LAUNCHES: u32 = 128;

/// What was observed of the Jobs and pods of a run.
#[derive(Debug, Default)]
pub struct Observation {
    pub steps: Steps,
    /// The Job that has not ended.
    pub open_job: Option<Arc<Job>>,
    /// Jobs of earlier reruns that have not ended.
    pub superseded: Vec<Arc<Job>>,
    /// The progress of the running step.
    pub progress: Option<Progress>,
    /// Why it cannot be read, if that is to be reported now.
    pub progress_unreadable: Option<String>,
    /// Whether a Job is complete and a result of it has not arrived yet.
    pub result_pending: bool,
}

/// Observes the steps of a run. It reads Jobs and pods from the API server only where the watches may lag behind.
///
/// # Errors
/// A request failed.
pub async fn observe(
    context: &Context,
    run: &RunIdentity,
    previous: &RunStatus,
    now: &Time,
) -> kube::Result<Observation> {
    let mut observation = Observation::default();
    let mut jobs: BTreeMap<String, Arc<Job>> =
        jobs_of(context, run).into_iter().map(|job| (job.name_any(), job)).collect();
    for spec in pipeline::steps(run.kind) {
        let step = spec.name;
        let before = previous.step(step);
        let latest = latest_job(context, run, step, before, &mut jobs).await?;
        let snapshot = match (status_results::result(previous, step), latest) {
            (Some(result), _) => {
                let attempts = before.map_or(1, |before| before.attempts);
                let outcome = StepOutcome::Succeeded(Box::new(result));
                StepSnapshot {
                    job: before.and_then(|before| recorded_job(run, before)),
                    uncounted: before.map_or(0, |before| before.uncounted_launches),
                    progress_at_launch: before.and_then(|before| before.progress_at_launch),
                    ..StepSnapshot::new(attempts, outcome)
                }
            }
            (None, LatestJob::None) => continue,
            (None, LatestJob::Deleted(job)) => deleted(job, before),
            (None, LatestJob::Found(job, launch)) => {
                let snapshot = read_job(context, run, step, (&job, launch), previous, now).await?;
                let open = snapshot.outcome.is_open();
                if job.is_finished() {
                    observation.result_pending |= open;
                } else {
                    if open {
                        let interruptions = snapshot.interruptions.map_or(0, |count| count.total);
                        match progress(context, step, &job, interruptions, now).await {
                            Ok(progress) => observation.progress = progress,
                            Err(why) => observation.progress_unreadable = why,
                        }
                    }
                    observation.open_job = Some(job);
                }
                snapshot
            }
        };
        observation.steps.insert(step, snapshot);
    }
    let being_deleted = |job: &Job| job.metadata.deletion_timestamp.is_some();
    observation.superseded =
        jobs.into_values().filter(|job| !job.is_finished() && !being_deleted(job)).collect();
    Ok(observation)
}

/// The Job of the last launch of a step.
enum LatestJob {
    /// The step was never launched.
    None,
    /// The Job and the number of the launch.
    Found(Arc<Job>, u32),
    /// The status names it, but it does not exist any more.
    Deleted(JobRef),
}

/// The last Job of a step. All Jobs of the step are removed from `jobs`.
async fn latest_job(
    context: &Context,
    run: &RunIdentity,
    step: StepName,
    before: Option<&StepStatus>,
    jobs: &mut BTreeMap<String, Arc<Job>>,
) -> kube::Result<LatestJob> {
    let recorded = before.and_then(|before| recorded_job(run, before));
    let mut last = None;
    for number in 1..=MAX_LAUNCHES {
        match jobs.remove(&names::launch(run, LaunchId { step, number })) {
            Some(job) => last = Some((job, number)),
            None if recorded.as_ref().is_some_and(|recorded| number <= recorded.launch) => {}
            None => break,
        }
    }
    let Some(recorded) = recorded else {
        return Ok(last.map_or(LatestJob::None, |(job, number)| LatestJob::Found(job, number)));
    };
    match last {
        Some((job, number)) if number >= recorded.launch => Ok(LatestJob::Found(job, number)),
        // The watch may be behind.
        _ if before.is_some_and(|before| before.state != StepState::Succeeded) => {
            let api: Api<Job> = Api::namespaced(context.client.clone(), &run.namespace);
            Ok(match api.get_opt(&recorded.name).await? {
                Some(job) if job.uid().as_deref() == Some(&recorded.uid) => {
                    LatestJob::Found(Arc::new(job), recorded.launch)
                }
                _ => LatestJob::Deleted(recorded),
            })
        }
        _ => Ok(LatestJob::None),
    }
}

/// The Job that a status names. The number of its launch follows from its name.
pub(super) fn recorded_job(run: &RunIdentity, before: &StepStatus) -> Option<JobRef> {
    let (name, uid) = (before.job_name.clone()?, before.job_uid.clone()?);
    let launch = (1..=MAX_LAUNCHES)
        .find(|number| names::launch(run, LaunchId { step: before.name, number: *number }) == name)?;
    Some(JobRef { name, uid, launch })
}

/// A step whose Job was deleted.
fn deleted(job: JobRef, before: Option<&StepStatus>) -> StepSnapshot {
    let outcome = StepOutcome::Failed {
        reason: Reason::JobDeleted,
        exhausted: false,
        message: format!("its Job {} was deleted; raise spec.retry to run it again", job.name),
    };
    let attempts = before.map_or(job.launch, |before| before.attempts);
    let uncounted = before.map_or(0, |before| before.uncounted_launches);
    StepSnapshot { job: Some(job), uncounted, ..StepSnapshot::new(attempts, outcome) }
}

async fn read_job(
    context: &Context,
    run: &RunIdentity,
    step: StepName,
    (job, launch): (&Job, u32),
    previous: &RunStatus,
    now: &Time,
) -> kube::Result<StepSnapshot> {
    let uid = job.uid().unwrap_or_default();
    let mut pods = pods_of(&context.pods, job);
    let mut state = job_state::read(step, job, &pods, now);
    if matches!(state.reading, Reading::ResultMissing { .. } | Reading::Outcome(StepOutcome::Failed { .. })) {
        // The watch of pods may be behind that of Jobs, and this reading of the Job is final.
        list_pods(context, job, &mut pods).await?;
        state = job_state::read(step, job, &pods, now);
    }
    let JobState { reading, attempts, interrupted, last_failure, device_failed } = state;
    let before = previous.step(step);
    let same_job = before.filter(|before| before.job_uid.as_deref() == Some(&uid));
    // The attempts of a Job that was deleted still count.
    let counted = before.map_or(0, |before| before.attempts);
    let attempts = match same_job {
        Some(_) => counted.max(launch - 1 + attempts),
        None => counted.max(launch - 1) + attempts,
    };
    let counted = same_job.and_then(|before| before.interruptions);
    let is_known = context.progress_log.is_known(&uid, counted.map_or(0, |count| count.total));
    let progress = previous.progress.as_ref().filter(|progress| progress.step == step);
    let reached = progress.map(|progress| progress.current_step);
    // A GPU that fails before the trainer serves its progress leaves what the status has.
    let at_start = device_failed.then(|| reached.unwrap_or_default());
    let interruptions = interruptions::count(counted, interrupted, reached.filter(|_| is_known).or(at_start));
    let mut outcome = match reading {
        Reading::Outcome(outcome) => wait_after_refusal(outcome, job, launch, now),
        // A pod that was deleted is in no list, but its watch may be about to deliver the result.
        Reading::ResultMissing { .. } if is_recent(job, now) => StepOutcome::Running,
        Reading::ResultMissing { index } => StepOutcome::Failed {
            reason: Reason::ResultLost,
            exhausted: false,
            message: format!(
                "the pod of index {index} was deleted before its result was read; raise spec.retry to run it again"
            ),
        },
    };
    if outcome.is_open()
        && let Some(failure) =
            interruptions::failure(interruptions, last_failure.as_deref().filter(|_| device_failed))
    {
        outcome = failure;
    } else if matches!(outcome, StepOutcome::Starting | StepOutcome::Running) {
        let missing = match missing_pods(job, &pods, now) {
            Some(missing) => why_pods_are_missing(context, step, job, &missing).await?,
            None => None,
        };
        let waiting = match missing {
            Some(waiting) => Some(waiting),
            None => pending_pods::explain(context, run, step, &pods, now).await?,
        };
        outcome = waiting.unwrap_or(outcome);
    }
    let (workload, workload_held) = read_workload(context, step, job, same_job, &mut outcome).await?;
    let job = JobRef { name: job.name_any(), uid, launch };
    let progress_at_launch = match same_job {
        Some(before) => before.progress_at_launch,
        None => reached,
    };
    Ok(StepSnapshot {
        attempts,
        outcome,
        job: Some(job),
        interruptions,
        workload,
        workload_held,
        uncounted: before.map_or(0, |before| before.uncounted_launches),
        progress_at_launch,
        // Every attempt of `prepare` starts over.
        has_progressed: step != StepName::Prepare && reached.unwrap_or(0) > progress_at_launch.unwrap_or(0),
        last_failure,
    })
}

/// Finds the Workload of a Job, and whether the operator deactivated it. If something else than `spec.suspend` suspends the
/// Job, replaces the outcome by what that is. It costs a request, so that it is done only for a Job that waits, or whose
/// Workload is not known yet.
async fn read_workload(
    context: &Context,
    step: StepName,
    job: &Job,
    before: Option<&StepStatus>,
    outcome: &mut StepOutcome,
) -> kube::Result<(Option<String>, bool)> {
    let known = before.and_then(|before| before.workload.clone());
    let waits = matches!(outcome, StepOutcome::Waiting { reason: Reason::Queued, .. });
    if !waits && (!outcome.is_open() || !job.is_queued() || known.is_some()) {
        return Ok((known, false));
    }
    let found = context.workloads.of_job(job).await?;
    if waits {
        let last_problem = before.and_then(|before| before.last_problem.as_deref());
        *outcome = workloads::suspended_step(step, job, &found, last_problem);
    }
    Ok(match found {
        Found::Workloads(workloads) => {
            let held = workloads.iter().any(|workload| workload.is_held);
            (workloads.into_iter().next().map(|workload| workload.name), held)
        }
        Found::Forbidden(_) | Found::NotInstalled => (known, false),
    })
}

/// How long the step waits after a Job whose pods were refused: whatever refuses them, such as a device plugin that is
/// not up yet, may take minutes.
fn wait_after_refusal(outcome: StepOutcome, job: &Job, launch: u32, now: &Time) -> StepOutcome {
    let wait = SignedDuration::from_secs(10 << launch.clamp(1, 6).saturating_sub(1));
    let waits = job.failed_at().is_some_and(|failed| now.0.duration_since(failed.0) < wait);
    match outcome {
        StepOutcome::Failed { reason: Reason::PodRejected, message, exhausted: false } if waits => {
            let message = format!("{message}; another Job follows after {} s", wait.as_secs());
            StepOutcome::Waiting { reason: Reason::PodRejected, message }
        }
        outcome => outcome,
    }
}

/// Replaces what the watch knows of a Job's pods with what the API server has.
async fn list_pods(context: &Context, job: &Job, pods: &mut Vec<Arc<Pod>>) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let uid = job.uid().unwrap_or_default();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={uid}"));
    let listed = api.list(&of_job).await?.items;
    pods.retain(|pod| !listed.iter().any(|newer| newer.uid() == pod.uid()));
    pods.extend(listed.into_iter().map(Arc::new));
    Ok(())
}

/// Whether a Job completed so recently that its results may still arrive.
fn is_recent(job: &Job, now: &Time) -> bool {
    let completed = job.status.completion_time.as_ref();
    completed.is_some_and(|completed| now.0.duration_since(completed.0) < RESULT_TIMEOUT)
}

/// Why the Job controller creates no pods. Only its events contain the reason.
async fn why_pods_are_missing(
    context: &Context,
    step: StepName,
    job: &Job,
    pods: &MissingPods,
) -> kube::Result<Option<StepOutcome>> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let uid = job.uid().unwrap_or_default();
    let of_job = format!("involvedObject.uid={uid},reason=FailedCreate");
    let events = api.list(&ListParams::default().fields(&of_job)).await?.items;
    // An obstacle from before the last pod was created no longer exists.
    let since = pods.since.as_ref().map(|since| since.0);
    let last = events
        .into_iter()
        .filter_map(|event| Some((event.last_timestamp?.0, event.message?)))
        .filter(|(time, _)| Some(*time) >= since)
        .max_by_key(|(time, _)| *time);
    let Some((_, why)) = last else { return Ok(None) };
    // Leave out the name of the pod, which is different at each attempt.
    let why = why.split_once(" is forbidden: ").map_or(why.as_str(), |(_, why)| why);
    let (reason, remedy) = if why.contains("exceeded quota") {
        (Reason::QuotaExceeded, "free or raise the quota, and it starts on its own")
    } else {
        (
            Reason::PodsNotCreated,
            "fix what the message names, or correct spec.pod, and the step is launched again with it",
        )
    };
    let MissingPods { missing, wanted, .. } = *pods;
    Ok(Some(if missing == wanted {
        let message = format!("cannot create the pod: {why}; {remedy}");
        StepOutcome::Waiting { reason, message }
    } else {
        let message = format!(
            "step {step} is running, but {missing} of its {wanted} pods cannot be created: {why}; {remedy}"
        );
        StepOutcome::Waiting { reason: Reason::of_step(step), message }
    }))
}

/// Reads the progress of a Job that was interrupted so often. The error says why it cannot be read, if that is to be
/// reported now.
async fn progress(
    context: &Context,
    step: StepName,
    job: &Job,
    interruptions: u32,
    now: &Time,
) -> Result<Option<Progress>, Option<String>> {
    let (complete, addresses) = job_state::results_and_addresses(step, &pods_of(&context.pods, job));
    let uid = job.uid().unwrap_or_default();
    if addresses.is_empty() {
        return Ok(None);
    }
    match context.progress.of_step(step, &complete, &addresses).await {
        Ok(progress) => {
            if progress.is_some() {
                context.progress_log.succeeded(&uid, interruptions);
            }
            Ok(progress)
        }
        Err(error) => Err(context.progress_log.failed(&uid, now).then(|| {
            format!(
                "cannot read the progress of step {step} from port {PROGRESS_PORT} of its pods: {error}; let the operator connect to it, for example in a NetworkPolicy or the settings of a service mesh. The step itself is not affected."
            )
        })),
    }
}

/// The Jobs of a run. The label alone does not suffice, because anybody can set it.
#[must_use]
pub fn jobs_of(context: &Context, run: &RunIdentity) -> Vec<Arc<Job>> {
    let mut jobs = context.jobs.of(&run.uid);
    jobs.retain(|job| labels::is_controlled_by(&job.metadata, &run.uid));
    jobs
}

/// Whether the first Job of a run exists, even if its status does not say so yet.
#[must_use]
pub fn has_started(context: &Context, run: &RunIdentity) -> bool {
    pipeline::steps(run.kind).first().is_some_and(|spec| {
        let first = names::launch(run, LaunchId { step: spec.name, number: 1 });
        jobs_of(context, run).iter().any(|job| job.name_any() == first)
    })
}
