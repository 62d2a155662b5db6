//! Where things lie.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;

/// A folder on a persistent volume claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFolder {
    /// The PersistentVolumeClaim, in the run's namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: String,
    /// The folder inside the volume. Empty means the volume itself.
    #[serde(default)]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub path: String,
}

/// A file in a folder on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFile {
    /// The folder.
    pub volume: VolumeFolder,
    /// The file, relative to the folder.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub file: String,
}

/// Where artifacts go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["volume", "volumeClaimTemplate"])))]
pub struct Output {
    /// A folder on a claim that exists. Several runs may share one: artifacts are named by what they are made of,
    /// and a run finds there what another has already made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// A claim made for this run, named after it with -output appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<VolumeClaimTemplate>,
}

/// A claim to be made for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimTemplate {
    /// How the volume may be mounted. A generation with several shards on several nodes needs ReadWriteMany.
    #[serde(default = "access_modes")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub access_modes: Vec<AccessMode>,
    /// The storage class. Absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// How much storage to ask for.
    pub resources: StorageResources,
}

/// What a claim asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageResources {
    /// The amount asked for.
    pub requests: StorageRequests,
}

/// The amount a claim asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageRequests {
    /// A quantity, such as 50Gi.
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i?|k|m|e[0-9]+)?$"))]
    pub storage: String,
}

/// How a volume may be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::enum_variant_names, reason = "they are Kubernetes' words")]
pub enum AccessMode {
    /// By one node.
    ReadWriteOnce,
    /// By many nodes.
    ReadWriteMany,
    /// By one pod.
    ReadWriteOncePod,
}

impl AccessMode {
    /// As Kubernetes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
        }
    }
}

fn access_modes() -> Vec<AccessMode> {
    vec![AccessMode::ReadWriteOnce]
}
