//! The Jobs and pods of a run.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use stic_contract::StepName;
use stic_operator::build::labels;
use stic_operator::cluster::apply::is_ours;

/// The container that runs the trainer.
pub(super) const TRAINER: &str = "trainer";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What finds the children of the run of `uid`.
pub(super) fn selector(uid: &str) -> String {
    format!("{}={uid}", labels::RUN_UID)
}

/// The Jobs of a run, the oldest first, each with its pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Children {
    pub jobs: Vec<(Job, Vec<Pod>)>,
}

impl Children {
    /// Those that are the run's own: a label alone makes none, because anybody can write one.
    pub(super) fn of(uid: &str, jobs: Vec<Job>, pods: Vec<Pod>) -> Self {
        let mut by_job: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in pods {
            let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
            if let Some(owner) = owner.map(|owner| owner.uid.clone()) {
                by_job.entry(owner).or_default().push(pod);
            }
        }
        let mut jobs: Vec<(Job, Vec<Pod>)> = jobs
            .into_iter()
            .filter(|job| is_ours(&job.metadata, uid))
            .map(|job| {
                let mut pods = by_job.remove(&job.uid().unwrap_or_default()).unwrap_or_default();
                pods.sort_by_key(|pod| (shard(pod), age(&pod.metadata)));
                (job, pods)
            })
            .collect();
        jobs.sort_by_key(|(job, _)| age(&job.metadata));
        Self { jobs }
    }

    /// Those of a step.
    pub(super) fn of_step(&self, step: StepName) -> impl Iterator<Item = &(Job, Vec<Pod>)> {
        self.jobs.iter().filter(move |(job, _)| step_of(&job.metadata) == Some(step))
    }
}

// Two that were made within a second keep an order.
fn age(metadata: &ObjectMeta) -> (Option<Time>, Option<String>) {
    (metadata.creation_timestamp.clone(), metadata.name.clone())
}

/// The step an object belongs to.
pub(super) fn step_of(metadata: &ObjectMeta) -> Option<StepName> {
    let label = metadata.labels.as_ref()?.get(labels::STEP)?;
    [StepName::Prepare, StepName::Generate, StepName::Describe, StepName::Train]
        .into_iter()
        .find(|step| step.as_str() == label)
}

/// The shard of a pod, where several share the step or could.
pub(super) fn shard(pod: &Pod) -> Option<u32> {
    let label = pod.labels().get(INDEX).or_else(|| pod.annotations().get(INDEX))?;
    label.parse().ok()
}

/// Whether a Job has several shards.
pub(super) fn is_shared(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1) > 1
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The trainer of a pod.
pub(super) fn trainer(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|container| container.name == TRAINER)
}

/// Whether a pod has, or had, a log.
pub(super) fn has_started(pod: &Pod) -> bool {
    let state = trainer(pod).and_then(|container| container.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}
