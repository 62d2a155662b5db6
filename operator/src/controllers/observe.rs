//! How the steps of a run stand, by its Jobs and pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stic_contract::{Progress, RunIdentity, StepName, pipeline};
use stic_crds::RunStatus;
use stic_crds::status::{Interruptions, StepState, StepStatus};

use super::recorded;
use crate::build::{Attempt, names};
use crate::cluster::apply::is_ours;
use crate::cluster::job_state::{self, JobState, MissingPods, Reading};
use crate::cluster::objects::{Job, Pod};
use crate::cluster::results::pods_of;
use crate::context::Context;
use crate::plan::{JobRef, Observed, StepObservation, StepOutcome};
use crate::refusal::Reason;

/// A step that ends this often asking to be resumed and got no further in between never will.
const FUTILE_INTERRUPTIONS: u32 = 3;
/// How much later than that of Jobs the watch of pods may be: a result that came with neither by then is lost.
const RESULT_DUE: SignedDuration = SignedDuration::from_secs(10);
/// More launches than any budget allows.
const MAX_LAUNCHES: u32 = 128;

/// What was seen of a run.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its steps.
    pub observed: Observed,
    /// The Job that has not ended.
    pub current: Option<Arc<Job>>,
    /// Jobs that have not ended and are none of this rerun's.
    pub strays: Vec<Arc<Job>>,
    /// What the running step reports.
    pub progress: Option<Progress>,
    /// Whether a Job is done whose result may yet come.
    pub result_is_due: bool,
}

/// Sees the steps of a run.
///
/// # Errors
/// Those of the API server.
pub async fn observe(
    context: &Context,
    run: &RunIdentity,
    previous: &RunStatus,
    now: &Time,
) -> kube::Result<Seen> {
    let mut seen = Seen::default();
    let mut jobs: BTreeMap<String, Arc<Job>> =
        jobs_of(context, run).into_iter().map(|job| (job.name_any(), job)).collect();
    for spec in pipeline::steps(run.kind) {
        let step = spec.name;
        let before = previous.step(step);
        let last = last_launch(context, run, step, before, &mut jobs).await?;
        if let Some(result) = recorded::result(previous, step) {
            let attempts = before.map_or(1, |before| before.attempts);
            let mut observation = StepObservation::new(attempts, StepOutcome::Succeeded(Box::new(result)));
            observation.job = before.and_then(recorded_job(run, step));
            seen.observed.steps.insert(step, observation);
            continue;
        }
        let observation = match last {
            Launched::Never => continue,
            Launched::Gone(job) => {
                let outcome = StepOutcome::Failed {
                    reason: Reason::JobDeleted,
                    retryable: true,
                    message: format!("its Job {} was deleted; raise spec.rerun to run it again", job.name),
                };
                let attempts = before.map_or(job.launch, |before| before.attempts);
                StepObservation { job: Some(job), ..StepObservation::new(attempts, outcome) }
            }
            Launched::There(job, launch) => {
                let observation = of_job(context, step, &job, launch, before, previous, now).await?;
                let open = matches!(observation.outcome, StepOutcome::Running | StepOutcome::Waiting { .. });
                if job_state::is_over(&job) {
                    seen.result_is_due |= open;
                } else {
                    if open {
                        seen.progress = progress(context, step, &job).await;
                    }
                    seen.current = Some(job);
                }
                observation
            }
        };
        seen.observed.steps.insert(step, observation);
    }
    seen.strays =
        jobs.into_values().filter(|job| !job_state::is_over(job) && !is_going(job.as_ref())).collect();
    Ok(seen)
}

enum Launched {
    Never,
    There(Arc<Job>, u32),
    /// The status knows of it, the API server no longer does.
    Gone(JobRef),
}

/// The last Job of a step. Those of the step are taken out of `jobs`.
async fn last_launch(
    context: &Context,
    run: &RunIdentity,
    step: StepName,
    before: Option<&StepStatus>,
    jobs: &mut BTreeMap<String, Arc<Job>>,
) -> kube::Result<Launched> {
    let known = before.and_then(recorded_job(run, step));
    let mut last = None;
    for number in 1..=MAX_LAUNCHES {
        match jobs.remove(&names::attempt(run, Attempt { step, number })) {
            Some(job) => last = Some((job, number)),
            None if known.as_ref().is_some_and(|known| number <= known.launch) => {}
            None => break,
        }
    }
    let Some(known) = known else {
        return Ok(last.map_or(Launched::Never, |(job, number)| Launched::There(job, number)));
    };
    match last {
        Some((job, number)) if number >= known.launch => Ok(Launched::There(job, number)),
        // The watch may only be late.
        _ if before.is_some_and(|before| before.state != StepState::Succeeded) => {
            let api: Api<Job> = Api::namespaced(context.client.clone(), &run.namespace);
            Ok(match api.get_opt(&known.name).await? {
                Some(job) if job.uid().as_deref() == Some(&known.uid) => {
                    Launched::There(Arc::new(job), known.launch)
                }
                _ => Launched::Gone(known),
            })
        }
        _ => Ok(Launched::Never),
    }
}

/// The Job that a status names, and which launch it is: its name says so.
fn recorded_job(run: &RunIdentity, step: StepName) -> impl Fn(&StepStatus) -> Option<JobRef> {
    move |before| {
        let (name, uid) = (before.job_name.clone()?, before.job_uid.clone()?);
        let launch = (1..=MAX_LAUNCHES)
            .find(|number| names::attempt(run, Attempt { step, number: *number }) == name)?;
        Some(JobRef { name, uid, launch })
    }
}

async fn of_job(
    context: &Context,
    step: StepName,
    job: &Job,
    launch: u32,
    before: Option<&StepStatus>,
    previous: &RunStatus,
    now: &Time,
) -> kube::Result<StepObservation> {
    let uid = job.uid().unwrap_or_default();
    let mut pods = pods_of(&context.pods, job);
    let mut state = job_state::read(step, job, &pods, now);
    let last =
        matches!(state.reading, Reading::ResultMissing { .. } | Reading::Outcome(StepOutcome::Failed { .. }));
    if last {
        // The watch of pods may be later than that of Jobs, and of a Job that is over nobody asks again.
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={uid}"));
        let listed = api.list(&of_job).await?.items;
        pods.retain(|pod| !listed.iter().any(|newer| newer.uid() == pod.uid()));
        pods.extend(listed.into_iter().map(Arc::new));
        state = job_state::read(step, job, &pods, now);
    }
    let JobState { reading, attempts, interrupted } = state;
    let same_job = before.filter(|before| before.job_uid.as_deref() == Some(&uid));
    // Those of a Job that was deleted count on.
    let counted = before.map_or(0, |before| before.attempts);
    let attempts = match same_job {
        Some(_) => counted.max(launch - 1 + attempts),
        None => counted.max(launch - 1) + attempts,
    };
    let reached = previous.progress.as_ref().filter(|progress| progress.step == step);
    let interruptions = count_interruptions(
        same_job.and_then(|before| before.interruptions),
        interrupted,
        reached.map_or(0, |progress| progress.current_step),
    );
    let mut outcome = match reading {
        Reading::Outcome(outcome) => outcome,
        // A pod that was deleted is in no list, and its watch may be about to say what it left.
        Reading::ResultMissing { .. } if is_fresh(job, now) => StepOutcome::Running,
        Reading::ResultMissing { index } => StepOutcome::Failed {
            reason: Reason::ResultLost,
            retryable: true,
            message: format!(
                "the pod of index {index} is gone before its result was read; raise spec.rerun to run it again"
            ),
        },
    };
    let open = matches!(outcome, StepOutcome::Running | StepOutcome::Waiting { .. });
    if open && interruptions.is_some_and(|count| count.without_progress >= FUTILE_INTERRUPTIONS) {
        outcome = StepOutcome::Failed {
            reason: Reason::Interrupted,
            retryable: false,
            message: format!(
                "it ended {FUTILE_INTERRUPTIONS} times asking to be resumed and got no further in between; see the log of its last pod for what interrupts it, then raise spec.rerun"
            ),
        };
    } else if outcome == StepOutcome::Running
        && let Some(lack) = job_state::missing_pods(job, &pods, now)
    {
        outcome = without_pods(context, step, job, &lack).await?.unwrap_or(outcome);
    }
    Ok(StepObservation {
        attempts,
        outcome,
        job: Some(JobRef { name: job.name_any(), uid, launch }),
        interruptions,
    })
}

/// Whether a Job was done only just.
fn is_fresh(job: &Job, now: &Time) -> bool {
    let done = job.status.completion_time.as_ref();
    done.is_some_and(|done| now.0.duration_since(done.0) < RESULT_DUE)
}

/// Interruptions count together until there is progress between two of them.
fn count_interruptions(before: Option<Interruptions>, total: u32, reached: u64) -> Option<Interruptions> {
    let before = before.unwrap_or_default();
    if total <= before.total {
        return (before.total > 0).then_some(before);
    }
    let fresh = total - before.total;
    let without_progress =
        if before.total > 0 && reached > before.at { fresh } else { before.without_progress + fresh };
    Some(Interruptions { total, without_progress, at: reached })
}

/// Why the Job controller makes no pods: only its events say.
async fn without_pods(
    context: &Context,
    step: StepName,
    job: &Job,
    lack: &MissingPods,
) -> kube::Result<Option<StepOutcome>> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let uid = job.uid().unwrap_or_default();
    let of_job = format!("involvedObject.uid={uid},reason=FailedCreate");
    let events = api.list(&ListParams::default().fields(&of_job)).await?.items;
    // What was in the way before the last pod was made is not in the way any more.
    let since = lack.since.as_ref().map(|since| since.0);
    let last = events
        .into_iter()
        .filter_map(|event| Some((event.last_timestamp?.0, event.message?)))
        .filter(|(time, _)| Some(*time) >= since)
        .max_by_key(|(time, _)| *time);
    let Some((_, why)) = last else { return Ok(None) };
    // The pod's name is another one at each try, and helps nobody.
    let why = why.split_once(" is forbidden: ").map_or(why.as_str(), |(_, why)| why);
    let (reason, mend) = if why.contains("exceeded quota") {
        (Reason::QuotaExceeded, "free some of the quota or raise it, and it starts by itself")
    } else {
        (
            Reason::PodsNotCreated,
            "mend what it names, or correct spec.pod and delete its Job, which is then made anew",
        )
    };
    let MissingPods { missing, wanted, .. } = *lack;
    Ok(Some(if missing == wanted {
        let message = format!("the pod cannot be created: {why}; {mend}");
        StepOutcome::Waiting { reason, message }
    } else {
        let message =
            format!("step {step} runs, but {missing} of its {wanted} pods cannot be created: {why}; {mend}");
        StepOutcome::Waiting { reason: Reason::of_step(step), message }
    }))
}

async fn progress(context: &Context, step: StepName, job: &Job) -> Option<Progress> {
    let (done, addresses) = job_state::parts(step, &pods_of(&context.pods, job));
    context.progress.of_step(step, &done, &addresses).await
}

/// The Jobs of a run. A label alone makes none: anybody can write one.
#[must_use]
pub fn jobs_of(context: &Context, run: &RunIdentity) -> Vec<Arc<Job>> {
    let mut jobs = context.jobs.of(&run.uid);
    jobs.retain(|job| is_ours(&job.metadata, &run.uid));
    jobs
}

/// Whether the first Job of a run exists, also where its status does not say so yet.
#[must_use]
pub fn has_started(context: &Context, run: &RunIdentity) -> bool {
    pipeline::steps(run.kind).first().is_some_and(|spec| {
        let first = names::attempt(run, Attempt { step: spec.name, number: 1 });
        jobs_of(context, run).iter().any(|job| job.name_any() == first)
    })
}

fn is_going(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interruptions_count_until_there_is_progress() {
        let first = count_interruptions(None, 1, 0);
        assert_eq!(first, Some(Interruptions { total: 1, without_progress: 1, at: 0 }));
        assert_eq!(count_interruptions(first, 1, 50), first, "nothing new ended");
        let second = count_interruptions(first, 2, 0);
        let third = count_interruptions(second, 3, 0);
        assert_eq!(third.map(|count| count.without_progress), Some(3));
        let moved = count_interruptions(second, 3, 10);
        assert_eq!(moved, Some(Interruptions { total: 3, without_progress: 1, at: 10 }));
        assert_eq!(count_interruptions(None, 0, 10), None);
    }
}
