//! What steps leave behind: folders named after what determines their content.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{RunIdentity, VolumePath};
use crate::digest::Digest;
use crate::pipeline::StepName;

/// The marker whose presence makes a folder a complete artifact.
pub const SUCCESS_FILE: &str = "_SUCCESS.json";
/// Where unfinished work lives, under the run's output path.
pub const PARTIAL_DIR: &str = ".partial";

/// What an artifact holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ArtifactKind {
    /// The checked items of a run: `items.jsonl`, `skipped.jsonl`, `report.json`.
    Prepared,
    /// `preferences.jsonl`: a chosen and a rejected response per image.
    Preferences,
    /// `descriptions.jsonl`: a description per instruction.
    Descriptions,
    /// A PEFT adapter: `adapter_model.safetensors`, `adapter_config.json`, `README.md`, metrics.
    Adapter,
}

impl ArtifactKind {
    /// The first part of the folder's name.
    #[must_use]
    pub const fn folder_prefix(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Preferences => "preferences",
            Self::Descriptions => "descriptions",
            Self::Adapter => "adapter",
        }
    }

    /// The file that holds the payload and whose digest the artifact is known by.
    #[must_use]
    pub const fn payload_file(self) -> &'static str {
        match self {
            Self::Prepared => "items.jsonl",
            Self::Preferences => "preferences.jsonl",
            Self::Descriptions => "descriptions.jsonl",
            Self::Adapter => "adapter_model.safetensors",
        }
    }
}

/// Where a complete artifact is, and what it must hash to. A consumer verifies the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactRef {
    /// The artifact's folder.
    pub location: VolumePath,
    /// The digest of its payload file.
    pub digest: Digest,
}

/// An artifact as recorded in a result and in a run's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// What it holds.
    pub kind: ArtifactKind,
    /// Its folder.
    pub location: VolumePath,
    /// The digest of its payload file.
    pub digest: Digest,
    /// The size of all its files.
    pub size_bytes: u64,
    /// The step that made it.
    pub step: StepName,
    /// Whether it was there before this run asked for it.
    pub reused: bool,
}

impl Artifact {
    /// The part a consumer needs.
    #[must_use]
    pub fn reference(&self) -> ArtifactRef {
        ArtifactRef { location: self.location.clone(), digest: self.digest.clone() }
    }
}

/// `_SUCCESS.json`, written last into an artifact's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessMarker {
    /// What the folder holds.
    pub kind: ArtifactKind,
    /// The digest of the payload file.
    pub digest: Digest,
    /// The size of all files but this one.
    pub size_bytes: u64,
    /// The step that made it.
    pub step: StepName,
    /// What the folder's name is the hash of.
    pub made_from: Value,
    /// Counts, largest differences and other facts found while making it; identical for identical inputs.
    pub facts: Value,
    /// Who made it.
    pub created_by: CreatedBy,
    /// The build and the machine; the promise of identical bytes is per CPU.
    pub made_with: Value,
}

/// The run that made an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreatedBy {
    /// The run's UID.
    pub uid: String,
    /// The run's rerun counter.
    pub rerun: u32,
}

/// The folder of an artifact: `<kind>-<16 hex digits>` over everything that determines its bytes.
///
/// `made_from` holds the recipe, the digests of the inputs, the precision, the world size and the trainer's
/// version. A rerun never meets its own earlier output: from `rerun` 1 on, the run itself is part of the name.
#[must_use]
pub fn folder_name(kind: ArtifactKind, made_from: &Value, run: &RunIdentity) -> String {
    let key = if run.rerun == 0 {
        json!({"kind": kind, "madeFrom": made_from})
    } else {
        json!({"kind": kind, "madeFrom": made_from, "uid": run.uid, "rerun": run.rerun})
    };
    format!("{}-{}", kind.folder_prefix(), Digest::of_json(&key).short(16))
}

/// The folder a run works in until its artifacts are whole, relative to the output path.
#[must_use]
pub fn partial_dir(run: &RunIdentity) -> String {
    format!("{PARTIAL_DIR}/{}-{}", run.uid, run.rerun)
}

/// The file a running step reports its progress to, relative to the output path.
#[must_use]
pub fn progress_file(run: &RunIdentity, step: StepName, shard: u32) -> String {
    format!("{}/{step}-{shard:05}.progress.json", partial_dir(run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunKind;

    fn run(rerun: u32) -> RunIdentity {
        RunIdentity {
            kind: RunKind::StageOneRun,
            namespace: "default".into(),
            name: "a".into(),
            uid: "u".into(),
            rerun,
        }
    }

    #[test]
    fn the_name_follows_the_content_and_not_the_run_until_a_rerun() {
        let key = json!({"beta": 0.1});
        let name = |run: &RunIdentity| folder_name(ArtifactKind::Preferences, &key, run);
        let other = RunIdentity { uid: "other".into(), ..run(0) };
        assert_eq!(name(&run(0)), name(&other));
        assert_ne!(name(&run(0)), name(&run(1)));
        assert_ne!(name(&run(1)), name(&run(2)));
        assert!(name(&run(0)).starts_with("preferences-"));
        assert_ne!(name(&run(0)), folder_name(ArtifactKind::Preferences, &json!({"beta": 0.2}), &run(0)));
    }
}
