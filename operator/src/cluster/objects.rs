//! Jobs and pods as far as they are read.
//!
//! The types of `k8s_openapi` have room for every field, and an operator that keeps thousands of them is as large as they
//! are. What is not here is skipped while it is parsed.

use k8s_openapi::api::{batch, core};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::Deserialize;

use crate::build::job::QUEUE_NAME;
use crate::build::labels;

/// The label and annotation of an index of an Indexed Job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A Job.
#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = batch::v1::Job)]
pub struct Job {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: JobSpec,
    /// What became of it.
    #[serde(default)]
    pub status: JobStatus,
}

/// What is asked of a Job.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// Whether it may have no pods.
    pub suspend: bool,
    /// How many indexes there are.
    pub completions: Option<i32>,
    /// How many pods there may be at once.
    pub parallelism: Option<i32>,
}

/// What became of a Job.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Indexes that are given up, such as `1,3-5`.
    pub failed_indexes: Option<String>,
    /// How many indexes are done.
    pub succeeded: i32,
    /// When it was started, or started again.
    pub start_time: Option<Time>,
    /// When all was done.
    pub completion_time: Option<Time>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = core::v1::Pod)]
pub struct Pod {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: PodSpec,
    /// What became of it.
    #[serde(default)]
    pub status: PodStatus,
}

/// What is asked of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it was bound to.
    pub node_name: Option<String>,
}

/// What became of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Option<String>,
    /// Why it ended, where that is not its containers' doing.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Its containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Its init containers.
    pub init_container_statuses: Vec<ContainerStatus>,
}

impl PodStatus {
    /// Whether its containers have all ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

/// A condition of a Job or a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
    /// Why, for people.
    pub message: Option<String>,
}

impl Condition {
    /// Whether it is of this type and status.
    #[must_use]
    pub fn is(&self, kind: &str, status: &str) -> bool {
        self.kind == kind && self.status == status
    }
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Whether it is ready.
    pub ready: bool,
    /// How it stands.
    pub state: ContainerState,
}

/// How a container stands: at most one is present.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It is not started.
    pub waiting: Option<Waiting>,
    /// It runs.
    pub running: Option<Running>,
    /// It has ended.
    pub terminated: Option<Box<Terminated>>,
}

/// Why a container is not started.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// Why.
    pub reason: Option<String>,
    /// Why, for people.
    pub message: Option<String>,
}

/// That a container runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Running {}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` and others.
    pub reason: Option<String>,
    /// What it left as its termination message, or the end of its log.
    pub message: Option<String>,
    /// When.
    pub finished_at: Option<Time>,
}

/// Forgets of an object's metadata what nobody reads.
pub fn prune(metadata: &mut ObjectMeta) {
    let read = [labels::RUN, labels::RUN_KIND, labels::RUN_UID, labels::STEP, QUEUE_NAME, INDEX];
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
