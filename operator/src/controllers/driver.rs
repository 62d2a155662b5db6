//! One reconciliation, for every kind: observe, validate, plan, act, status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use stic_contract::{RunIdentity, RunKind, StepName};
use stic_crds::RunStatus;
use stic_crds::status::{SUCCEEDED, SUSPENDED};
use tracing::Instrument;

use super::act::{self, Launched, Pinned};
use super::claims::{say_of_claims, settle_claim};
use super::observe::{self, Seen};
use super::run::Run;
use super::stage_two::Upstream;
use super::{finished, look_up, not_understood, timing};
use crate::cluster::job_state::{self, Reading};
use crate::context::{Context, RunKey};
use crate::plan::{JobRef, Plan, StepObservation, StepOutcome, plan};
use crate::refusal::{Reason, Refusal};
use crate::status::{Facts, differs, own, status};
use crate::validated::{Validated, identity};

/// A reconciliation failed and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// An object that the API server never stores.
    #[error(transparent)]
    Refusal(#[from] Refusal),
}

/// Reconciles one object.
///
/// # Errors
/// What may pass.
pub async fn reconcile<K: Run>(
    object: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let metadata = object.meta();
    let span = tracing::info_span!(
        "reconcile",
        kind = ?K::KIND,
        namespace = metadata.namespace.as_deref().unwrap_or_default(),
        name = metadata.name.as_deref().unwrap_or_default(),
    );
    let work = async {
        match &object.0 {
            Ok(run) => advance(run, &context).await,
            Err(invalid) => {
                // An older or newer operator made sense of it; nothing but this object is held up.
                tracing::error!(error = %invalid.error, "the object is none that this version knows");
                not_understood::tell::<K>(&context, invalid).await?;
                Ok(Action::await_change())
            }
        }
    }
    .instrument(span);
    let mut busy = Duration::ZERO;
    let result = timed(work, &mut busy).await;
    if result.is_ok() {
        context.backoff.forget(&key(K::KIND, metadata));
    }
    let label = match &result {
        Ok(_) => "ok",
        Err(error) if is_conflict(error) => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled(K::KIND, label, started.elapsed(), busy);
    result
}

/// Adds up how long `work` computes; what it waits for, such as the API server, is not counted.
async fn timed<F: Future>(work: F, busy: &mut Duration) -> F::Output {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|task| {
        let began = Instant::now();
        let answer = work.as_mut().poll(task);
        *busy += began.elapsed();
        answer
    })
    .await
}

/// When a failed reconciliation is tried again.
pub fn on_error<K: Run>(object: Arc<DeserializeGuard<K>>, error: &Error, context: Arc<Context>) -> Action {
    let metadata = object.meta();
    let wait = context.backoff.failed(&key(K::KIND, metadata));
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    if is_conflict(error) {
        tracing::debug!(kind = ?K::KIND, namespace, name, %error, "somebody else wrote first");
    } else {
        tracing::warn!(kind = ?K::KIND, namespace, name, %error, ?wait, "a reconciliation failed");
    }
    Action::requeue(wait)
}

fn key(kind: RunKind, metadata: &ObjectMeta) -> RunKey {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    RunKey::new(kind, &text(&metadata.namespace), &text(&metadata.name))
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Kube(kube::Error::Api(status)) if status.code == 409)
}

/// A status on its way to the API server.
pub(super) struct Record<'a, K> {
    pub object: &'a K,
    pub run: &'a RunIdentity,
    pub previous: RunStatus,
    pub version: Option<String>,
}

impl<K: Run> Record<'_, K> {
    /// Writes `next` if it says anything new.
    pub(super) async fn write(&mut self, context: &Context, next: RunStatus) -> kube::Result<()> {
        if !differs(&self.previous, &next) {
            return Ok(());
        }
        let version = context.patch_status::<K>(self.run, self.version.as_deref(), &next).await?;
        context.written.note(&key(K::KIND, self.object.meta()), &self.run.uid, version.clone(), &next);
        let phase =
            |status: &RunStatus| status.condition(SUCCEEDED).map(|condition| condition.reason.clone());
        if let Some(condition) = next.condition(SUCCEEDED)
            && (phase(&self.previous).as_ref() != Some(&condition.reason)
                || self.previous.rerun != next.rerun)
        {
            tracing::info!(
                reason = condition.reason,
                message = condition.message,
                "the run came into a phase"
            );
            context.metrics.entered(self.run.kind, &condition.reason);
            let warning = condition.status == "False" || is_trouble(&condition.reason);
            context.publish(self.run, warning, &condition.reason, &condition.message).await;
        }
        self.version = version;
        self.previous = next;
        Ok(())
    }
}

fn is_trouble(reason: &str) -> bool {
    ![
        Reason::Queued,
        Reason::Preparing,
        Reason::Generating,
        Reason::Describing,
        Reason::Training,
        Reason::Suspended,
        Reason::StageOneNotSucceeded,
        Reason::Succeeded,
    ]
    .iter()
    .any(|fine| fine.as_str() == reason)
}

async fn advance<K: Run>(object: &K, context: &Context) -> Result<Action, Error> {
    if object.meta().deletion_timestamp.is_some() {
        // Owner references take children along; nothing outside the cluster is left to clean.
        return Ok(Action::await_change());
    }
    let (previous, version) = context.written.latest(&key(K::KIND, object.meta()), object, object.status());
    let previous = own(previous);
    // One that was taken back, as by a revert in git, asks for nothing: what was begun or is over stays what it is.
    let rerun = object.rerun().max(previous.rerun);
    let run = identity(K::KIND, object.meta(), rerun)?;
    let mut record = Record { object, run: &run, previous, version };
    let now = Time(Timestamp::now());
    // Terminal means terminal: this is looked at before any child is.
    if record.previous.rerun == run.rerun && record.previous.succeeded().is_some() {
        return finished::settle(context, &mut record, &now).await;
    }
    let anew = RunStatus::default();
    let before = if record.previous.rerun == run.rerun { record.previous.clone() } else { anew };
    let mut settled =
        validate(object, context, &run, &before).map(|validated| Validated { run: run.clone(), ..validated });
    let seen = observe::observe(context, &run, &before, &now).await?;
    let mut next = plan(&settled, &seen.observed);
    if matches!(&next, Plan::Start(launch) | Plan::Retry(launch) if launch.step != StepName::Prepare || launch.attempt > 1)
        && let (Ok(validated), Some(started_with)) =
            (&mut settled, look_up::started_with(context, &run).await?)
    {
        let layout = before.resolved.as_ref().map(|resolved| resolved.training_image_layout);
        validated.pin(&started_with, layout);
        next = plan(&settled, &seen.observed);
    }
    let deadline = settled.as_ref().ok().and_then(|run| timing::left(run, &before, &now));
    if deadline == Some(Duration::ZERO) && !matches!(next, Plan::Done { .. } | Plan::Fail { .. }) {
        next = Plan::Fail {
            reason: Reason::DeadlineExceeded,
            message: "the run did not end within spec.activeDeadlineSeconds; raise that and spec.rerun"
                .into(),
        };
    }
    if matches!(next, Plan::Retry(_)) && !look_up::is_newest::<K>(context, &run, object.meta()).await? {
        // The watch is about to bring what is newer.
        return Ok(Action::requeue(timing::LOOK_AGAIN));
    }
    let image = context.settings.trainer_image.as_str();
    let facts = |run: &Result<Validated, Refusal>, seen: &Seen, plan: &Plan| {
        let facts = Facts {
            kind: K::KIND,
            generation: object.meta().generation.unwrap_or_default(),
            rerun,
            run,
            observed: &seen.observed,
            plan,
            progress: seen.progress.as_ref(),
            trainer_image: Some(image),
            now: &now,
        };
        status(&before, &facts)
    };
    let mut seen = seen;
    let waits = if let Plan::Start(launch) | Plan::Retry(launch) = &next {
        // What the run is resolved to is written down before the first thing is made of it.
        if before.resolved.is_none() {
            let soon = Plan::Wait {
                reason: Reason::of_step(launch.step),
                message: format!("step {} is about to start", launch.step),
            };
            record.write(context, facts(&settled, &seen, &soon)).await?;
        }
        act::delete(context, &seen.strays).await?;
        let pinned = record.previous.resolved.as_ref().and_then(|resolved| resolved.trainer_image.clone());
        let pinned = Pinned {
            trainer_image: pinned.unwrap_or_else(|| image.to_owned()),
            remaining_seconds: deadline.and_then(|left| u32::try_from(left.as_secs()).ok()),
        };
        let Ok(validated) = &settled else { return Ok(Action::await_change()) };
        let (step, attempt) = (launch.step, launch.attempt);
        match act::launch(context, validated, launch, pinned).await? {
            Launched::Job(job) => {
                let attempts = seen.observed.steps.get(&step).map_or(0, |seen| seen.attempts) + 1;
                let outcome = match job_state::read(step, &job, &[], &now).reading {
                    Reading::Outcome(outcome) => outcome,
                    Reading::ResultMissing { .. } => StepOutcome::Running,
                };
                let job =
                    JobRef { name: job.name_any(), uid: job.uid().unwrap_or_default(), launch: attempt };
                let observation =
                    StepObservation { job: Some(job), ..StepObservation::new(attempts, outcome) };
                seen.observed.steps.insert(step, observation);
                next = plan(&settled, &seen.observed);
                false
            }
            Launched::Blocked { reason, message } => {
                next = Plan::Wait { reason, message };
                true
            }
            Launched::Impossible { reason, message } => {
                next = Plan::Fail { reason, message };
                false
            }
        }
    } else {
        act::delete(context, &seen.strays).await?;
        if let (Some(job), Plan::Wait { .. }) = (&seen.current, &next) {
            let held = settled.as_ref().is_ok_and(|run| run.operation.suspend);
            let was_held = before.condition(SUSPENDED).is_some_and(|held| held.status == "True");
            act::steer(context, job, held, was_held).await?;
        }
        matches!(&next, Plan::Wait { reason, .. } if is_trouble(reason.as_str()))
    };
    if let (Plan::Wait { reason, message }, Ok(run)) = (&mut next, &settled) {
        say_of_claims(context, run, *reason, message).await?;
    }
    if before.observed_generation != object.meta().generation.unwrap_or_default() {
        // What becomes of the claim may be decided at any time.
        settle_claim(context, &record).await?;
    }
    record.write(context, facts(&settled, &seen, &next)).await?;
    if record.previous.succeeded().is_some() {
        return finished::settle(context, &mut record, &now).await;
    }
    let runs = seen.current.is_some() && seen.observed.steps.values().any(is_open);
    let wait = match () {
        () if waits => timing::LOOK_AGAIN,
        () if seen.result_is_due => timing::RESULT,
        () if runs => timing::progress(context.settings.progress_interval, &record.previous, &now),
        () => timing::RESYNC,
    };
    Ok(Action::requeue(deadline.map_or(wait, |left| wait.min(left.max(Duration::from_secs(1))))))
}

const fn is_open(seen: &StepObservation) -> bool {
    matches!(seen.outcome, StepOutcome::Running | StepOutcome::Waiting { .. })
}

fn validate<K: Run>(
    object: &K,
    context: &Context,
    run: &RunIdentity,
    before: &RunStatus,
) -> Result<Validated, Refusal> {
    let Some(name) = object.upstream() else { return object.validate(Upstream::Missing) };
    // First the note, then the look: what changes in between is reconciled again.
    context.references.note(&run.namespace, name, &run.name);
    let started = before.steps.iter().any(|step| step.attempts > 0) || observe::has_started(context, run);
    if let (true, Some(inputs)) = (started, &before.inputs) {
        return object.validate(Upstream::Pinned(inputs));
    }
    let found = context.stage_ones.get(&ObjectRef::new(name).within(&run.namespace));
    match found.as_deref() {
        Some(DeserializeGuard(Ok(upstream))) => object.validate(Upstream::Found(upstream)),
        Some(DeserializeGuard(Err(_))) => object.validate(Upstream::NotUnderstood),
        None => object.validate(Upstream::Missing),
    }
}
