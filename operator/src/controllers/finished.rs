//! A run that is over: it is never started again, only cleaned up after.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::runtime::controller::Action;
use stic_crds::lifecycle::Children;

use super::claims::settle_claim;
use super::driver::{Error, Record};
use super::run::Run;
use super::{act, observe};
use crate::cluster::job_state;
use crate::context::Context;

/// Sees to what is left of a run that is over.
pub(super) async fn settle<K: Run>(
    context: &Context,
    record: &mut Record<'_, K>,
    now: &Time,
) -> Result<Action, Error> {
    let object = record.object;
    let generation = object.meta().generation.unwrap_or_default();
    if record.previous.observed_generation != generation {
        // A finished run whose spec was touched has been looked at, and the answer is still the same.
        settle_claim(context, record).await?;
        let mut status = record.previous.clone();
        status.observed_generation = generation;
        for condition in &mut status.conditions {
            condition.observed_generation = Some(generation);
        }
        record.write(context, status).await?;
    }
    let jobs = observe::jobs_of(context, record.run);
    for job in jobs.iter().filter(|job| !job_state::is_over(job) && !job.spec.suspend) {
        act::halt(context, job).await?;
    }
    let retention = object.retention();
    if retention.children == Children::Keep || jobs.is_empty() {
        return Ok(Action::await_change());
    }
    let keep = SignedDuration::from_secs(i64::from(retention.after_finished_seconds.unwrap_or_default()));
    let since = record.previous.completion_time.as_ref().map_or(now.0, |ended| ended.0);
    let left = Duration::try_from(keep - now.0.duration_since(since)).unwrap_or(Duration::ZERO);
    if left > Duration::ZERO {
        return Ok(Action::requeue(left + Duration::from_secs(1)));
    }
    act::delete(context, &jobs).await?;
    Ok(Action::await_change())
}
