//! A run that has ended. It never starts again; only its children are cleaned up.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;

use super::error::Error;
use super::run::Run;
use super::status_record::StatusRecord;
use super::{claims, execute, observe};
use crate::context::Context;
use crate::decide::cleanup;
use crate::decision::Cleanup;

/// Suspends the Jobs of a run that has ended, and deletes them if its retention says so.
pub(super) async fn clean_up<K: Run>(
    context: &Context,
    record: &mut StatusRecord<'_, K>,
    now: &Time,
) -> Result<Action, Error> {
    let object = record.object;
    let generation = object.meta().generation.unwrap_or_default();
    if record.status.observed_generation != generation {
        claims::update_owner(context, record).await?;
        // Acknowledge the new generation; what the run ended with stays the same.
        let mut status = record.status.clone();
        status.observed_generation = generation;
        status.observed_rerun = Some(object.rerun());
        status.retry = object.retry();
        for condition in &mut status.conditions {
            condition.observed_generation = Some(generation);
        }
        record.write(context, status).await?;
    }
    let jobs = observe::jobs_of(context, &record.run);
    for job in jobs.iter().filter(|job| !job.is_finished()) {
        let ended = execute::end_job(context, job).await;
        ended.map_err(Error::of("suspend or delete the Job of a run that has ended"))?;
    }
    match cleanup(object.retention(), record.status.completion_time.as_ref(), now) {
        Cleanup::DeleteAfter(left) if !jobs.is_empty() => Ok(Action::requeue(left + Duration::from_secs(1))),
        Cleanup::DeleteNow => {
            let deleted = execute::delete_jobs(context, &jobs).await;
            deleted.map_err(Error::of("delete the Jobs of a run that has ended"))?;
            Ok(Action::await_change())
        }
        Cleanup::Keep | Cleanup::DeleteAfter(_) => Ok(Action::await_change()),
    }
}
