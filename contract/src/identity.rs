//! How runs and paths are identified in manifests, file names, labels and documents alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::enumerated::enumerated;

/// The run that a step belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// The kind of the run object.
    pub kind: RunKind,
    /// The namespace of the run object.
    pub namespace: String,
    /// `metadata.name` of the run object.
    pub name: String,
    /// `metadata.uid` of the run object. Local runs derive one from kind, namespace and name, so that the same command
    /// finds its unfinished work again.
    pub uid: String,
    /// `spec.rerun`: 0 for the first run, raised by the user to run again from scratch.
    pub rerun: u32,
}

enumerated! {
    /// The kinds of run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum RunKind {
        /// Stage 1: preference pairs from unlabelled images, then DPO.
        StageOneRun,
        /// Stage 2: description-infused instructions, then SFT.
        StageTwoRun,
        /// Models answer published benchmarks and are compared.
        EvaluationRun,
    }
}

impl RunKind {
    /// The `kind` of its manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StageOneRun => "StageOneRun",
            Self::StageTwoRun => "StageTwoRun",
            Self::EvaluationRun => "EvaluationRun",
        }
    }
}

impl fmt::Display for RunKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a [`RunKind`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a kind of run: expected {expected}", expected = RunKind::ALL.map(RunKind::as_str).join(", "))]
pub struct UnknownRunKind(String);

impl FromStr for RunKind {
    type Err = UnknownRunKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownRunKind(text.to_owned()))
    }
}

/// A path inside a mounted volume.
///
/// The trainer is given the folder under which volumes are mounted, and `volume` names a folder in it. The same
/// document is therefore valid on a cluster and on a laptop.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumePath {
    /// The name of the volume, which is the name of its claim or of the model image's volume.
    pub volume: String,
    /// The path inside the volume, relative. Empty means the volume's root.
    pub path: String,
}

impl VolumePath {
    /// The path with `child` appended.
    #[must_use]
    pub fn join(&self, child: &str) -> Self {
        let path = [self.path.trim_end_matches('/'), child]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        Self { volume: self.volume.clone(), path }
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, if self.path.is_empty() { "." } else { &self.path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_without_doubled_separators() {
        let root = VolumePath { volume: "v".into(), path: String::new() };
        assert_eq!(root.join("a").join("b").path, "a/b");
        assert_eq!(root.to_string(), "v:.");
        assert_eq!(VolumePath { volume: "v".into(), path: "a/".into() }.join("b").path, "a/b");
    }

    #[test]
    fn kinds_parse_from_what_they_serialize_to() {
        for kind in RunKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).expect("a string"), kind.as_str());
        }
        assert!("StageThreeRun".parse::<RunKind>().is_err());
    }
}
