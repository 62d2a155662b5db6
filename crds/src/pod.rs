//! The pod sections of the kinds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvFromSource, EnvVar, LocalObjectReference, PodResourceClaim, ResourceRequirements,
    Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::pipeline::Phase;

/// The pods of all steps, with overrides for some steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// The settings of all steps.
    #[serde(flatten)]
    pub all: PodSettings,
    /// Overrides for the step prepare. A field set here replaces the common one; lists and maps are replaced whole.
    /// GPUs and other devices are not inherited, because prepare needs none; request them here if you want them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<PodSettings>,
    /// Overrides for the steps generate and describe. A field set here replaces the common one; lists and maps are
    /// replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<PodSettings>,
    /// Overrides for the step train. A field set here replaces the common one; lists and maps are replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<PodSettings>,
}

/// The pods of all steps of an evaluation, with overrides for some steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationPod {
    /// The settings of all steps.
    #[serde(flatten)]
    pub all: PodSettings,
    /// Overrides for the steps prepare and score. A field set here replaces the common one; lists and maps are replaced
    /// whole. GPUs and other devices are not inherited, because these steps need none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<PodSettings>,
    /// Overrides for the step answer. A field set here replaces the common one; lists and maps are replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<PodSettings>,
    /// Overrides for the step judge, such as the variables of a proxy. A field set here replaces the common one; lists and
    /// maps are replaced whole. GPUs and other devices are not inherited, because the step needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<PodSettings>,
}

/// The pod section of a kind.
pub trait PodSections {
    /// The settings of all steps.
    fn all(&self) -> &PodSettings;

    /// The overrides for the steps of a phase. The section that holds them is called [`section`].
    fn overrides(&self, phase: Phase) -> Option<&PodSettings>;
}

impl PodSections for Pod {
    fn all(&self) -> &PodSettings {
        &self.all
    }

    fn overrides(&self, phase: Phase) -> Option<&PodSettings> {
        match phase {
            Phase::Preparing => self.prepare.as_ref(),
            Phase::Generating | Phase::Describing => self.generation.as_ref(),
            Phase::Training => self.training.as_ref(),
            Phase::Answering | Phase::Judging | Phase::Scoring => None,
        }
    }
}

impl PodSections for EvaluationPod {
    fn all(&self) -> &PodSettings {
        &self.all
    }

    fn overrides(&self, phase: Phase) -> Option<&PodSettings> {
        match phase {
            Phase::Preparing | Phase::Scoring => self.prepare.as_ref(),
            Phase::Answering => self.answer.as_ref(),
            Phase::Judging => self.judge.as_ref(),
            Phase::Generating | Phase::Describing | Phase::Training => None,
        }
    }
}

/// The section of `spec.pod` for the steps of a phase.
#[must_use]
pub const fn section(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing | Phase::Scoring => "prepare",
        Phase::Generating | Phase::Describing => "generation",
        Phase::Training => "training",
        Phase::Answering => "answer",
        Phase::Judging => "judge",
    }
}

/// Settings of a pod. None of them affects the result, so all can be changed; a change applies from the next attempt
/// on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// The trainer image. Absent means the image that the operator is configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the trainer image is pulled. Absent means Kubernetes' default: always for the tag latest, otherwise if the
    /// node does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// The Secrets for pulling images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// The resources of the trainer container. No GPU is requested by default; request one with limits such as
    /// `nvidia.com/gpu: 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The resource claims of the pod, for devices assigned by dynamic resource allocation. resources.claims must name
    /// each of them, because the trainer container gets the devices of no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    /// The labels that a node must have to run the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The taints that the pod tolerates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Rules on which nodes, and beside which pods, the pod may run. If the pods of a step must share a node because of
    /// a volume, that rule is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods are spread over zones, nodes and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The scheduler that places the pod, such as volcano. Absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub scheduler_name: Option<String>,
    /// The priority class of the pod. Absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// The service account of the pod. Absent means the namespace's default. No API token is mounted in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The runtime class of the pod, such as nvidia. Absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// The users and groups that the pod runs as. Absent means user, group and fsGroup 65532. An empty object ({}) leaves
    /// all three out, so that the platform can choose them, as OpenShift's security context constraints do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Environment variables of the trainer container, such as NCCL_DEBUG. The trainer takes no setting of the method
    /// from them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub env: Option<Vec<EnvVar>>,
    /// ConfigMaps and Secrets whose keys become environment variables of the trainer container.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// Volumes of the pod, in addition to the operator's own. Mount them with volumeMounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volumes: Option<Vec<Volume>>,
    /// Where volumes are mounted in the trainer container, in addition to the operator's own mounts. A mount at
    /// /dev/shm takes the place of the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Labels of the pod, its Job and its ConfigMap, in addition to the operator's own. Those that the pods of all steps
    /// have in common are also labels of a claim that is created for the run. Kueue's labels belong on the run instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Before every start of the container.
    Always,
    /// If the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl ImagePullPolicy {
    /// The value in a container.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The users and groups of a pod. NFS and hostPath volumes ignore fsGroup: for those, run as the user that owns the
/// files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// The user id of the trainer. Absent means 65532, the user of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run_as_user: Option<i64>,
    /// The primary group id of the trainer. Absent means 65532, the group of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub run_as_group: Option<i64>,
    /// The group id that owns the files of mounted volumes. Absent means 65532.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fs_group: Option<i64>,
    /// Additional group ids of the trainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub supplemental_groups: Option<Vec<i64>>,
}

impl PodSettings {
    /// These settings, with fields that are not set taken from `base`.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        let Self {
            image,
            image_pull_policy,
            image_pull_secrets,
            resources,
            resource_claims,
            node_selector,
            tolerations,
            affinity,
            topology_spread_constraints,
            scheduler_name,
            priority_class_name,
            service_account_name,
            runtime_class_name,
            security_context,
            env,
            env_from,
            volumes,
            volume_mounts,
            labels,
            annotations,
        } = self.clone();
        Self {
            image: image.or_else(|| base.image.clone()),
            image_pull_policy: image_pull_policy.or(base.image_pull_policy),
            image_pull_secrets: image_pull_secrets.or_else(|| base.image_pull_secrets.clone()),
            resources: resources.or_else(|| base.resources.clone()),
            resource_claims: resource_claims.or_else(|| base.resource_claims.clone()),
            node_selector: node_selector.or_else(|| base.node_selector.clone()),
            tolerations: tolerations.or_else(|| base.tolerations.clone()),
            affinity: affinity.or_else(|| base.affinity.clone()),
            topology_spread_constraints: topology_spread_constraints
                .or_else(|| base.topology_spread_constraints.clone()),
            scheduler_name: scheduler_name.or_else(|| base.scheduler_name.clone()),
            priority_class_name: priority_class_name.or_else(|| base.priority_class_name.clone()),
            service_account_name: service_account_name.or_else(|| base.service_account_name.clone()),
            runtime_class_name: runtime_class_name.or_else(|| base.runtime_class_name.clone()),
            security_context: security_context.or_else(|| base.security_context.clone()),
            env: env.or_else(|| base.env.clone()),
            env_from: env_from.or_else(|| base.env_from.clone()),
            volumes: volumes.or_else(|| base.volumes.clone()),
            volume_mounts: volume_mounts.or_else(|| base.volume_mounts.clone()),
            labels: labels.or_else(|| base.labels.clone()),
            annotations: annotations.or_else(|| base.annotations.clone()),
        }
    }
}
