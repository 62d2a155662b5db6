//! One reconciliation, the same for every kind: gather a snapshot, decide, execute, requeue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Resource;
use kube::core::DeserializeGuard;
use kube::core::ObjectMeta;
use kube::runtime::controller::Action;
use stic_contract::RunKind;
use stic_crds::Reason;
use tracing::Instrument;

use super::error::Error;
use super::gather::{Gathered, gather};
use super::run::Run;
use super::status_record::StatusRecord;
use super::{claims, execute, facts, reconcile_failure, retries, terminal, unreadable};
use crate::context::Context;
use crate::decide::decide;
use crate::decision::Decision;
use crate::requeue;
use crate::run_key::RunKey;

/// Reconciles one object.
///
/// # Errors
/// A request failed or was rejected in a way that may pass. [`error_policy`] says when it is tried again.
pub async fn reconcile<K: Run>(
    object: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let start = Instant::now();
    let metadata = object.meta();
    let span = span(K::KIND, metadata.namespace.as_deref(), metadata.name.as_deref());
    let work = async {
        match &object.0 {
            Ok(run) => advance(run, &context).await,
            Err(invalid) => {
                // Only this object is affected.
                tracing::error!(
                    error = %invalid.error,
                    "cannot deserialize the object; it was written by another version of the operator"
                );
                unreadable::report::<K>(&context, invalid).await?;
                Ok(Action::await_change())
            }
        }
    }
    .instrument(span);
    let mut busy = Duration::ZERO;
    let result = measure_busy(work, &mut busy).await;
    match (&result, &object.0) {
        (Ok(_), _) => context.backoff.forget(&key(K::KIND, metadata)),
        (Err(error), Ok(run)) => {
            reconcile_failure::report(&context, run, key(K::KIND, metadata), error).await;
        }
        (Err(_), Err(_)) => {}
    }
    let label = match &result {
        Ok(_) => "ok",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled(K::KIND, label, start.elapsed(), busy);
    result
}

/// The span of a reconciliation, by whose fields logs are filtered. A span has a name of its own, which is why the run's is
/// in another field.
pub(crate) fn span(kind: RunKind, namespace: Option<&str>, name: Option<&str>) -> tracing::Span {
    tracing::info_span!(
        "reconcile",
        kind = kind.as_str(),
        namespace = namespace.unwrap_or_default(),
        run = name.unwrap_or_default(),
    )
}

/// Adds up the time that `work` computes, without the time that it waits, such as for the API server.
async fn measure_busy<F: Future>(work: F, busy: &mut Duration) -> F::Output {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|task| {
        let start = Instant::now();
        let polled = work.as_mut().poll(task);
        *busy += start.elapsed();
        polled
    })
    .await
}

/// When a failed reconciliation is tried again.
pub fn error_policy<K: Run>(
    object: Arc<DeserializeGuard<K>>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let metadata = object.meta();
    let wait = context.backoff.failed(&key(K::KIND, metadata));
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let kind = K::KIND.as_str();
    if error.is_conflict() {
        tracing::debug!(kind, namespace, run = name, %error, "the object was changed in between");
    } else {
        tracing::warn!(kind, namespace, run = name, %error, ?wait, "reconciliation failed");
    }
    Action::requeue(wait)
}

fn key(kind: RunKind, metadata: &ObjectMeta) -> RunKey {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    RunKey { kind, namespace: text(&metadata.namespace), name: text(&metadata.name) }
}

async fn advance<K: Run>(object: &K, context: &Context) -> Result<Action, Error> {
    if object.meta().deletion_timestamp.is_some() {
        // Owner references delete the children, and there is nothing outside the cluster to clean up.
        return Ok(Action::await_change());
    }
    let key = key(K::KIND, object.meta());
    let mut gathered = gather(context, &key, object).await?;
    // The Jobs of an earlier rerun never run beside those of this one.
    let deleted = execute::delete_jobs(context, &gathered.superseded).await;
    deleted.map_err(Error::of("delete the Jobs of an earlier rerun"))?;
    let decision = loop {
        match decide(&gathered.snapshot) {
            Ok(decision) => break decision,
            Err(needed) => facts::fetch::<K>(context, &mut gathered.snapshot, object.meta(), needed).await?,
        }
    };
    let mut record = StatusRecord {
        object,
        key,
        run: gathered.snapshot.run.clone(),
        status: gathered.recorded.clone(),
        version: gathered.version.clone(),
    };
    carry_out(context, &mut record, gathered, decision).await
}

async fn carry_out<K: Run>(
    context: &Context,
    record: &mut StatusRecord<'_, K>,
    mut gathered: Gathered,
    decision: Decision,
) -> Result<Action, Error> {
    if let Some(why) = &gathered.progress_unreadable {
        context.writer.publish(&record.run, Reason::ProgressUnreadable, why).await;
    }
    let mut verdict = match decision {
        Decision::CleanUp => return terminal::clean_up(context, record, &gathered.snapshot.now).await,
        Decision::AwaitWatch => return Ok(Action::requeue(requeue::POLL)),
        Decision::Launch(launch) => execute::launch(context, record, &mut gathered, *launch).await?,
        Decision::Replace(step, why) => execute::replace(context, record, &mut gathered, (step, why)).await?,
        Decision::Report { verdict, changes } => {
            let changed = execute::change_open_job(context, gathered.open_job.as_ref(), changes).await?;
            changed.unwrap_or(verdict)
        }
    };
    claims::explain(context, &gathered.snapshot, &mut verdict).await?;
    if gathered.snapshot.previous.observed_generation != gathered.snapshot.generation {
        claims::update_owner(context, record).await?;
    }
    record.write(context, gathered.status(context, &verdict)).await?;
    for message in retries::messages(&gathered.snapshot) {
        context.writer.publish_as(&record.run, "Retrying", true, &message).await;
    }
    if record.status.succeeded().is_some() {
        return terminal::clean_up(context, record, &gathered.snapshot.now).await;
    }
    let progress_interval = context.settings.progress_interval;
    let wait = requeue::interval(&gathered.snapshot, &verdict, &record.status, progress_interval);
    Ok(Action::requeue(wait))
}
