//! The Jobs of a run, and their pods.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use stic_contract::StepName;
use stic_operator::build::labels;

/// The name of the container that runs the trainer.
pub(super) const TRAINER_CONTAINER: &str = "trainer";
const INDEX_LABEL: &str = "batch.kubernetes.io/job-completion-index";

/// The label selector for the Jobs and pods of the run with `uid`.
pub(super) fn selector(uid: &str) -> String {
    format!("{}={uid}", labels::RUN_UID)
}

/// The Jobs of a run, oldest first, each with its pods, ordered by shard and age.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnedJobs {
    pub jobs: Vec<(Job, Vec<Pod>)>,
}

impl OwnedJobs {
    /// Keeps the Jobs that the run owns: anybody can set a label, so a label alone is no proof.
    pub(super) fn new(uid: &str, jobs: Vec<Job>, pods: Vec<Pod>) -> Self {
        let mut by_job: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in pods {
            let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
            if let Some(owner) = owner.map(|owner| owner.uid.clone()) {
                by_job.entry(owner).or_default().push(pod);
            }
        }
        let mut jobs: Vec<(Job, Vec<Pod>)> = jobs
            .into_iter()
            .filter(|job| labels::is_controlled_by(&job.metadata, uid))
            .map(|job| {
                let mut pods = by_job.remove(&job.uid().unwrap_or_default()).unwrap_or_default();
                pods.sort_by_key(|pod| (shard(pod), age(&pod.metadata)));
                (job, pods)
            })
            .collect();
        jobs.sort_by_key(|(job, _)| age(&job.metadata));
        Self { jobs }
    }

    pub(super) fn of_step(&self, step: StepName) -> impl Iterator<Item = &(Job, Vec<Pod>)> {
        self.jobs.iter().filter(move |(job, _)| step_of(&job.metadata) == Some(step))
    }
}

// With the name, objects created within the same second have a stable order.
fn age(metadata: &ObjectMeta) -> (Option<Time>, Option<String>) {
    (metadata.creation_timestamp.clone(), metadata.name.clone())
}

/// The step that an object belongs to.
pub(super) fn step_of(metadata: &ObjectMeta) -> Option<StepName> {
    metadata.labels.as_ref()?.get(labels::STEP)?.parse().ok()
}

/// The index of a pod of an indexed Job.
pub(super) fn shard(pod: &Pod) -> Option<u32> {
    let label = pod.labels().get(INDEX_LABEL).or_else(|| pod.annotations().get(INDEX_LABEL))?;
    label.parse().ok()
}

/// The number of shards of a Job.
pub(super) fn shards(job: &Job) -> i32 {
    job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1)
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The status of a pod's trainer container.
pub(super) fn trainer(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    containers.into_iter().find(|container| container.name == TRAINER_CONTAINER)
}

/// Whether the trainer has started, so that the pod has a log.
pub(super) fn has_started(pod: &Pod) -> bool {
    let state = trainer(pod).and_then(|container| container.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}
