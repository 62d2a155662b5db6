//! The pods steps run in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EnvVar, LocalObjectReference, PodResourceClaim, ResourceRequirements, Toleration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pods of all steps, with overrides for some.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// What holds for all steps.
    #[serde(flatten)]
    pub all: PodSettings,
    /// What differs for prepare. A field given here replaces the one above; lists and maps are replaced whole.
    /// Devices are not inherited: prepare needs no GPU, and holds none unless one is asked for here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<PodSettings>,
    /// What differs for generate and describe. A field given here replaces the one above; lists and maps are replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<PodSettings>,
    /// What differs for train. A field given here replaces the one above; lists and maps are replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<PodSettings>,
}

/// The pod of a step. Nothing in it decides the result, so all of it may change; a change applies from the next
/// attempt on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// The trainer's image. Absent means the operator's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// Secrets with which images are pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// CPU, memory and GPUs. No GPU by default: ask for one, such as limits nvidia.com/gpu 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Devices by dynamic resource allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    /// Labels a node must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints a pod tolerates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tolerations: Option<Vec<Toleration>>,
    /// The priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// The service account. The trainer is given no API token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The runtime class, such as nvidia.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Whose files the pod may read and write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Environment variables, such as NCCL_DEBUG. No setting of the method is read from them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub env: Option<Vec<EnvVar>>,
    /// Labels for the pod, beside the operator's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations for the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Users and groups. NFS and hostPath volumes ignore fsGroup: there, run as the user that owns the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// The user the trainer runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run_as_user: Option<i64>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub run_as_group: Option<i64>,
    /// The group that owns the volumes' files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fs_group: Option<i64>,
    /// Further groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub supplemental_groups: Option<Vec<i64>>,
}

impl PodSettings {
    /// These settings where given, else those of `base`.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        let Self {
            image,
            image_pull_secrets,
            resources,
            resource_claims,
            node_selector,
            tolerations,
            priority_class_name,
            service_account_name,
            runtime_class_name,
            security_context,
            env,
            labels,
            annotations,
        } = self.clone();
        Self {
            image: image.or_else(|| base.image.clone()),
            image_pull_secrets: image_pull_secrets.or_else(|| base.image_pull_secrets.clone()),
            resources: resources.or_else(|| base.resources.clone()),
            resource_claims: resource_claims.or_else(|| base.resource_claims.clone()),
            node_selector: node_selector.or_else(|| base.node_selector.clone()),
            tolerations: tolerations.or_else(|| base.tolerations.clone()),
            priority_class_name: priority_class_name.or_else(|| base.priority_class_name.clone()),
            service_account_name: service_account_name.or_else(|| base.service_account_name.clone()),
            runtime_class_name: runtime_class_name.or_else(|| base.runtime_class_name.clone()),
            security_context: security_context.or_else(|| base.security_context.clone()),
            env: env.or_else(|| base.env.clone()),
            labels: labels.or_else(|| base.labels.clone()),
            annotations: annotations.or_else(|| base.annotations.clone()),
        }
    }
}
