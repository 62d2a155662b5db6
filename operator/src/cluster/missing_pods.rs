//! Pods that the Job controller should have created.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

use super::objects::{Job, Pod};

/// The time that the Job controller has to create pods before its events are read for a reason.
const CREATING_PODS: SignedDuration = SignedDuration::from_secs(5);

/// Pods that a Job lacks although it had time to create them.
#[derive(Debug, Clone, PartialEq)]
pub struct MissingPods {
    pub missing: usize,
    pub wanted: usize,
    /// Events from before this time do not explain why they are missing now.
    pub since: Option<Time>,
}

#[must_use]
pub fn missing_pods(job: &Job, pods: &[Arc<Pod>], now: &Time) -> Option<MissingPods> {
    let Job { metadata, spec, status } = job;
    if spec.suspend || job.is_finished() {
        return None;
    }
    let count = |count: i32| usize::try_from(count).unwrap_or_default();
    let failed = status.failed_indexes().count();
    let completions = count(spec.completions.unwrap_or_default());
    let left = completions.saturating_sub(count(status.succeeded) + failed);
    let wanted = left.min(count(spec.parallelism.unwrap_or_default()));
    let missing = wanted.saturating_sub(pods.iter().filter(|pod| !pod.status.is_finished()).count());
    let started = status.start_time.as_ref().or(metadata.creation_timestamp.as_ref());
    let created = pods.iter().filter_map(|pod| pod.metadata.creation_timestamp.as_ref());
    let since = started.into_iter().chain(created).max_by_key(|time| time.0).cloned();
    let overdue = since.as_ref().is_some_and(|since| now.0.duration_since(since.0) > CREATING_PODS);
    (missing > 0 && overdue).then_some(MissingPods { missing, wanted, since })
}
