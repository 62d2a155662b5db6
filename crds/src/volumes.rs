//! Volumes for inputs and outputs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;

/// A folder on a PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFolder {
    /// The name of a PersistentVolumeClaim in the run's namespace.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = cel::text(
        "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "must be the name of a PersistentVolumeClaim, which has lower-case letters, digits, dashes and dots only",
    )))]
    pub claim_name: String,
    /// The folder, relative to the root of the volume. Empty means the root.
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
    /// The path of the file, relative to the folder.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub file: String,
}

/// The volume for artifacts. Exactly one field must be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["volume", "volumeClaimTemplate"])))]
pub struct Output {
    /// A folder on an existing claim. Several runs may share it: an artifact is named after what determines its
    /// content, so a run finds and reuses what another one has produced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// A claim that is created for this run. It has the run's name with -output appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<VolumeClaimTemplate>,
}

/// A claim to be created for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimTemplate {
    /// The access modes of the claim. A step with several shards can use several nodes only with ReadWriteMany.
    /// Defaults to ReadWriteOnce.
    #[serde(default = "access_modes")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub access_modes: Vec<AccessMode>,
    /// The storage class of the claim. Absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// The storage that the claim requests.
    pub resources: StorageResources,
}

/// The resources of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageResources {
    /// The requested resources.
    pub requests: StorageRequests,
}

/// The requested resources of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageRequests {
    /// The size of the volume as a quantity, such as 50Gi.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = cel::text(
        "^([0-9]*[1-9][0-9]*([.][0-9]+)?|0*[.][0-9]*[1-9][0-9]*)([KMGTPE]i?|k|m|e[0-9]+)?$",
        "must be a quantity greater than 0, such as 50Gi, without a space",
    )))]
    pub storage: String,
}

/// How a volume can be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// By one node.
    ReadWriteOnce,
    /// By many nodes.
    ReadWriteMany,
    /// By one pod.
    ReadWriteOncePod,
}

impl AccessMode {
    /// The value in a PersistentVolumeClaim.
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
