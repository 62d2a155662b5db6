//! Results of pods that were deleted.
//!
//! The result of a trainer is in its pod, which may be deleted before its Job is complete: by a user, with its node, or
//! while it ends. The Job counts such a pod as complete and creates no other, so that its result is kept as long as its
//! Job exists.

use std::sync::Arc;

use kube::ResourceExt;

use super::children::Children;
use super::objects::{Job, Pod};
use super::trainer_exit::has_result;
use crate::build::labels;

/// Removes a pod that was deleted, unless it has a result that its Job may need.
pub fn pod_deleted(pods: &Children<Pod>, jobs: &Children<Job>, pod: &Pod) {
    // Insert before looking for the Job: if the Job is deleted in between, it finds the pod and removes it.
    pods.insert(pod.clone());
    if !(has_result(pod) && jobs.of(run_uid(pod)).iter().any(|job| owns(job, pod))) {
        pods.remove(pod);
    }
}

/// Removes a Job that was deleted, and the results that were kept for it.
pub fn job_deleted(jobs: &Children<Job>, pods: &Children<Pod>, job: &Job) {
    jobs.remove(job);
    pods_of(pods, job).iter().filter(|pod| has_result(pod)).for_each(|pod| pods.remove(pod));
}

/// The pods of a Job, including those that were deleted and whose result is kept.
#[must_use]
pub fn pods_of(pods: &Children<Pod>, job: &Job) -> Vec<Arc<Pod>> {
    let mut pods = pods.of(run_uid(job));
    pods.retain(|pod| owns(job, pod));
    pods
}

fn run_uid<K: ResourceExt>(child: &K) -> &str {
    child.labels().get(labels::RUN_UID).map_or("", String::as_str)
}

fn owns(job: &Job, pod: &Pod) -> bool {
    let uid = job.uid();
    uid.is_some() && pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}
