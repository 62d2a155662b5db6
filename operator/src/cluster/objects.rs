//! The parts of Jobs and pods that the operator reads.
//!
//! The types of `k8s_openapi` have room for every field, and the operator caches thousands of objects. Fields that are
//! missing here are skipped while parsing.

use std::collections::BTreeMap;

use k8s_openapi::api::{batch, core};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::Deserialize;

use crate::build::job::{
    DEADLINE_OF_RUN, PRIORITY_CLASS, QUEUE_LABELS, QUEUE_NAME, QUEUE_OF_RUN, SETTINGS, SUSPENDED_BY,
};
use crate::build::labels;

/// The label and annotation with the index of a pod of an Indexed Job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = batch::v1::Job)]
pub struct Job {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: JobSpec,
    #[serde(default)]
    pub status: JobStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    pub suspend: bool,
    pub backoff_limit: Option<i32>,
    pub backoff_limit_per_index: Option<i32>,
    pub ttl_seconds_after_finished: Option<i32>,
    pub completions: Option<i32>,
    pub parallelism: Option<i32>,
    /// The controller that runs the Job; that of Kubernetes, if there is none.
    pub managed_by: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    pub conditions: Vec<Condition>,
    /// The indexes that used up their retries, such as `1,3-5`.
    pub failed_indexes: Option<String>,
    /// The number of pods that succeeded.
    pub succeeded: i32,
    /// When the Job was started, or resumed.
    pub start_time: Option<Time>,
    pub completion_time: Option<Time>,
}

/// Whether and how a Job has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd<'a> {
    Open,
    Complete,
    Failed { reason: &'a str, message: &'a str },
}

impl Job {
    #[must_use]
    pub fn end(&self) -> JobEnd<'_> {
        for condition in self.status.conditions.iter().filter(|condition| condition.status == "True") {
            match condition.kind.as_str() {
                "Complete" => return JobEnd::Complete,
                "Failed" => {
                    return JobEnd::Failed {
                        reason: condition.reason.as_deref().unwrap_or_default(),
                        message: condition.message.as_deref().unwrap_or_default(),
                    };
                }
                _ => {}
            }
        }
        JobEnd::Open
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end() != JobEnd::Open
    }

    /// When the Job failed.
    #[must_use]
    pub fn failed_at(&self) -> Option<&Time> {
        let failed = self.status.conditions.iter().find(|condition| condition.is("Failed", "True"));
        failed?.last_transition_time.as_ref()
    }

    /// Whether Kueue admits the Job.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(QUEUE_NAME))
    }

    /// Whether the operator suspended the Job, because its run is suspended.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        self.spec.suspend && annotations.is_some_and(|annotations| annotations.contains_key(SUSPENDED_BY))
    }

    /// How often Kubernetes retries its pod, or each of its shards.
    #[must_use]
    pub fn retry_limit(&self) -> Option<u32> {
        let limit = self.spec.backoff_limit_per_index.or(self.spec.backoff_limit)?;
        u32::try_from(limit).ok()
    }

    /// `spec.activeDeadlineSeconds` of the run that the deadline of the Job was computed from.
    #[must_use]
    pub fn deadline_of_run(&self) -> Option<u32> {
        self.metadata.annotations.as_ref()?.get(DEADLINE_OF_RUN)?.parse().ok()
    }

    /// Whether another controller than that of Kubernetes runs the Job, such as MultiKueue on another cluster.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.spec.managed_by.as_deref().is_some_and(|controller| controller != "kubernetes.io/job-controller")
    }

    /// Kueue's labels on the Job that say where it waits.
    #[must_use]
    pub fn queue_labels(&self) -> BTreeMap<String, String> {
        let labels = self.metadata.labels.iter().flatten();
        labels
            .filter(|(key, _)| QUEUE_LABELS.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl JobStatus {
    /// The indexes that used up their retries.
    pub fn failed_indexes(&self) -> impl Iterator<Item = u32> {
        self.failed_indexes.as_deref().unwrap_or_default().split(',').flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) => first..last.saturating_add(1),
                _ => 0..0,
            }
        })
    }
}

#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = core::v1::Pod)]
pub struct Pod {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub scheduler_name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Option<String>,
    /// Why the pod ended, if that is not because of its containers, such as `Evicted`.
    pub reason: Option<String>,
    pub message: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    pub conditions: Vec<Condition>,
    pub container_statuses: Vec<ContainerStatus>,
    pub init_container_statuses: Vec<ContainerStatus>,
}

impl PodStatus {
    /// Whether every container of the pod has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

/// A condition of a Job or a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub last_transition_time: Option<Time>,
}

impl Condition {
    #[must_use]
    pub fn is(&self, kind: &str, status: &str) -> bool {
        self.kind == kind && self.status == status
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    pub name: String,
    pub image: String,
    pub ready: bool,
    pub state: ContainerState,
}

impl ContainerStatus {
    /// Whether the container has ever started.
    #[must_use]
    pub const fn has_started(&self) -> bool {
        self.state.running.is_some() || self.state.terminated.is_some()
    }
}

/// The state of a container. At most one field is present.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub waiting: Option<Waiting>,
    pub running: Option<Running>,
    pub terminated: Option<Box<Terminated>>,
}

/// Why a container has not started.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Waiting {
    pub reason: Option<String>,
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Running {}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` and others.
    pub reason: Option<String>,
    /// The termination message, or the end of the log if there is none.
    pub message: Option<String>,
    pub finished_at: Option<Time>,
}

/// Removes the metadata that the operator does not read.
pub fn prune(metadata: &mut ObjectMeta) {
    let read = [
        labels::RUN,
        labels::RUN_KIND,
        labels::RUN_UID,
        labels::STEP,
        QUEUE_NAME,
        PRIORITY_CLASS,
        QUEUE_OF_RUN,
        SUSPENDED_BY,
        SETTINGS,
        DEADLINE_OF_RUN,
        INDEX,
    ];
    let read = |key: &str| read.contains(&key);
    metadata.managed_fields = None;
    metadata.finalizers = None;
    metadata.generate_name = None;
    metadata.resource_version = None;
    for map in [&mut metadata.labels, &mut metadata.annotations] {
        if let Some(texts) = map {
            texts.retain(|key, _| read(key));
            if texts.is_empty() {
                *map = None;
            }
        }
    }
}
