//! The outcome of a step whose Job has not finished.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stic_contract::{ExitCode, StepName};
use stic_crds::Reason;

use super::objects::{Job, Pod};
use super::pod_trouble::trouble;
use super::trainer_exit::{
    exit_code, failure_message, has_started, index, other_failure, rejection, succeeded, terminated,
};
use crate::build::job::QUEUE_NAME;
use crate::snapshot::{StepOutcome, suspended_message};

/// The outcome of a Job that has not finished.
pub(super) fn unfinished(step: StepName, job: &Job, pods: &[Arc<Pod>], now: &Time) -> StepOutcome {
    if job.spec.suspend || job.is_delegated() {
        let labels = job.metadata.labels.as_ref();
        let message = match labels.and_then(|labels| labels.get(QUEUE_NAME)) {
            _ if job.is_held() => {
                return StepOutcome::Waiting { reason: Reason::Suspended, message: suspended_message(step) };
            }
            Some(queue) => format!("step {step} waits in queue {queue}"),
            None => {
                format!("step {step} waits, because something suspended its Job that is not spec.suspend")
            }
        };
        return StepOutcome::Waiting { reason: Reason::Queued, message };
    }
    if job.metadata.deletion_timestamp.is_some() {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "Job {name} is being deleted, and step {step} is launched again once it is gone; if it stays, remove the finalizers that kubectl get job {name} -o yaml shows"
        );
        return StepOutcome::Waiting { reason: Reason::of_step(step), message };
    }
    let open: Vec<&Pod> = pods.iter().map(AsRef::as_ref).filter(|pod| !pod.status.is_finished()).collect();
    let troubles: Vec<_> = open.iter().filter_map(|pod| trouble(step, pod, now)).collect();
    let Some(first) = troubles.first() else {
        return match retrying(step, job, pods) {
            Some((reason, message)) => StepOutcome::Waiting { reason, message },
            None if pods.iter().any(|pod| has_started(pod)) => StepOutcome::Running,
            None => StepOutcome::Starting,
        };
    };
    if troubles.len() == open.len() || first.reason == Reason::NodeLost {
        return StepOutcome::Waiting { reason: first.reason, message: first.message.clone() };
    }
    StepOutcome::Waiting {
        reason: Reason::of_step(step),
        message: format!(
            "step {step} is running, but {} of its {} pods cannot run: {}",
            troubles.len(),
            open.len(),
            first.message
        ),
    }
}

/// Why an index of a step that is still running failed. Kubernetes waits between two pods of an index, in the end for
/// minutes, and the other indexes continue when one has used up its retries.
fn retrying(step: StepName, job: &Job, pods: &[Arc<Pod>]) -> Option<(Reason, String)> {
    let mut last: BTreeMap<u32, Option<&Pod>> = BTreeMap::new();
    for pod in pods {
        let ended = pod.status.is_finished().then_some(pod.as_ref());
        let known = last.entry(index(pod)).or_insert(ended);
        // An index with a pod that has not ended is running.
        *known = (*known).zip(ended).map(|(a, b)| if ended_at(a) > ended_at(b) { a } else { b });
    }
    let (index, reason, why) = last.iter().find_map(|(index, pod)| {
        let pod = (*pod)?;
        if let Some(why) = rejection(pod) {
            let reason = if last.len() > 1 { Reason::of_step(step) } else { Reason::PodRejected };
            return Some((*index, reason, why));
        }
        let Some(ended) = terminated(pod).filter(|_| succeeded(pod).is_none()) else {
            // A container before the trainer's or beside it.
            return other_failure(pod).map(|why| (*index, Reason::of_step(step), why));
        };
        let exit = exit_code(ended);
        let retried = exit.is_retryable() && exit != ExitCode::Interrupted;
        retried.then(|| (*index, Reason::of_step(step), failure_message(step, pod, ended)))
    })?;
    let message = match () {
        () if job.status.failed_indexes().any(|failed| failed == index) => {
            format!("step {step} is running, but its index {index} has failed for good: {why}")
        }
        () if last.len() > 1 => format!("index {index} of step {step} is being retried: {why}"),
        () => format!("step {step} is being retried: {why}"),
    };
    Some((reason, message))
}

/// When a pod ended; its creation, if none of its containers ever started.
fn ended_at(pod: &Pod) -> Option<&Time> {
    let ended = terminated(pod).and_then(|ended| ended.finished_at.as_ref());
    ended.or(pod.metadata.creation_timestamp.as_ref())
}
