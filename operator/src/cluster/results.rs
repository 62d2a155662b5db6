//! A trainer's result is in its pod, which may be deleted before its Job is complete: by somebody, with its node, or while
//! it ends. The Job counts such a pod as done and makes no other, so what it said is kept as long as its Job is there.

use std::sync::Arc;

use kube::ResourceExt;

use super::children::Children;
use super::job_state::has_result;
use super::objects::{Job, Pod};
use crate::build::labels;

/// Forgets a pod that was deleted, unless it left a result that its Job may need.
pub fn pod_deleted(pods: &Children<Pod>, jobs: &Children<Job>, pod: &Pod) {
    // Before the question: a Job that goes after it finds what to take along.
    pods.put(pod.clone());
    if !(has_result(pod) && jobs.of(run_uid(pod)).iter().any(|job| owns(job, pod))) {
        pods.remove(pod);
    }
}

/// Forgets a Job that was deleted, and the results that were kept for it.
pub fn job_deleted(jobs: &Children<Job>, pods: &Children<Pod>, job: &Job) {
    jobs.remove(job);
    pods_of(pods, job).iter().filter(|pod| has_result(pod)).for_each(|pod| pods.remove(pod));
}

/// The pods of a Job, those that were deleted and left a result among them.
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
