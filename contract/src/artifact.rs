//! Artifacts: folders on the output volume, each named after a digest of everything that determines its content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::identity::{RunIdentity, VolumePath};
use crate::pipeline::{ArtifactKind, StepName};

/// A [`SuccessMarker`] in this file makes a folder a complete artifact.
pub const SUCCESS_FILE: &str = "_SUCCESS.json";
/// The folder of unfinished work, under the run's output path.
pub const PARTIAL_DIR: &str = ".partial";
/// The file beside prepared items that lists those that were skipped, with file, line, id and reason.
pub const SKIPPED_FILE: &str = "skipped.jsonl";

/// A reference to a complete artifact. The consumer verifies the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactRef {
    /// The artifact's folder.
    pub location: VolumePath,
    /// The expected digest of the payload file.
    pub digest: Digest,
}

/// An adapter before `prepare` has digested it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterLocation {
    /// The folder of the adapter, in PEFT's layout.
    pub location: VolumePath,
    /// The expected digest, if another run produced the adapter. Absent for a user's own adapter.
    pub digest: Option<Digest>,
}

/// A complete artifact, as reported in a [`StepResult`](crate::StepResult) and in the status of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// What the folder holds.
    pub kind: ArtifactKind,
    /// The artifact's folder.
    pub location: VolumePath,
    /// The digest of the payload file.
    pub digest: Digest,
    /// The size of the files that its digests cover, in bytes: equal for equal artifacts.
    pub size_bytes: u64,
    /// The step that produced it.
    pub step: StepName,
    /// Whether the artifact existed already and was reused.
    pub reused: bool,
}

impl Artifact {
    /// Location and digest, which is what a consumer needs.
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
    /// The digests of the other files that the payload's meaning depends on, by name. Absent from markers of earlier
    /// versions.
    #[serde(default)]
    pub companions: BTreeMap<String, Digest>,
    /// The size of the payload and its companions, in bytes: equal for equal artifacts, unlike that of logs beside them.
    pub size_bytes: u64,
    /// The step that produced it.
    pub step: StepName,
    /// Everything that determines the content. The folder's name is a digest of it, see [`folder_name`].
    pub made_from: Value,
    /// Counts and measurements taken while the artifact was produced; identical for identical inputs.
    pub facts: Value,
    /// The run that produced it.
    pub created_by: CreatedBy,
    /// The trainer's build and the machine. Identical bytes are guaranteed on the same CPU model only.
    pub made_with: Value,
}

/// The run that produced an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreatedBy {
    /// [`RunIdentity::uid`].
    pub uid: String,
    /// [`RunIdentity::rerun`].
    pub rerun: u32,
}

/// The name of an artifact's folder: `<kind>-<16 hex digits>`, a digest of everything that determines its bytes.
///
/// `made_from` holds the recipe, the digests of the inputs, the precision, the world size and the trainer's version. From
/// `rerun` 1 on the run is part of the name too, so that a rerun never reuses earlier output of the same run.
#[must_use]
pub fn folder_name(kind: ArtifactKind, made_from: &Value, run: &RunIdentity) -> String {
    let key = if run.rerun == 0 {
        json!({"kind": kind, "madeFrom": made_from})
    } else {
        json!({"kind": kind, "madeFrom": made_from, "uid": run.uid, "rerun": run.rerun})
    };
    format!("{}-{}", kind.folder_prefix(), Digest::of_json(&key).short(16))
}

/// The folder of a run's unfinished work, relative to the output path.
#[must_use]
pub fn partial_dir(run: &RunIdentity) -> String {
    format!("{PARTIAL_DIR}/{}-{}", run.uid, run.rerun)
}

/// The file to which a running step writes its [`Progress`](crate::Progress), relative to the output path.
#[must_use]
pub fn progress_file(run: &RunIdentity, step: StepName, shard: u32) -> String {
    format!("{}/{step}-{shard:05}.progress.json", partial_dir(run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RunKind;

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
    fn a_folder_name_depends_on_the_content_and_from_the_first_rerun_on_also_on_the_run() {
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
