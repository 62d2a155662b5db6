//! The steps of each kind of run, their order, inputs and outputs. Nowhere else is this written down.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactKind;
use crate::config::RunKind;

/// One step of a run: one Job on a cluster, one child process on a laptop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepName {
    /// Digests and checks every input; needs no GPU.
    Prepare,
    /// Writes a chosen and a rejected response per image.
    Generate,
    /// Writes a description per instruction.
    Describe,
    /// Seals the shards of its input, then trains.
    Train,
}

impl StepName {
    /// As it is written in manifests, file names and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Generate => "generate",
            Self::Describe => "describe",
            Self::Train => "train",
        }
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a step takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSpec {
    /// Which step.
    pub name: StepName,
    /// The artifacts of earlier steps it reads.
    pub consumes: &'static [ArtifactKind],
    /// The artifact it leaves behind. A sharded step leaves shards, which its consumer seals.
    pub produces: ArtifactKind,
    /// Whether it runs as several indexes side by side.
    pub sharded: bool,
}

const STAGE_ONE: [StepSpec; 3] = [
    StepSpec { name: StepName::Prepare, consumes: &[], produces: ArtifactKind::Prepared, sharded: false },
    StepSpec {
        name: StepName::Generate,
        consumes: &[ArtifactKind::Prepared],
        produces: ArtifactKind::Preferences,
        sharded: true,
    },
    StepSpec {
        name: StepName::Train,
        consumes: &[ArtifactKind::Prepared, ArtifactKind::Preferences],
        produces: ArtifactKind::Adapter,
        sharded: false,
    },
];

const STAGE_TWO: [StepSpec; 3] = [
    StepSpec { name: StepName::Prepare, consumes: &[], produces: ArtifactKind::Prepared, sharded: false },
    StepSpec {
        name: StepName::Describe,
        consumes: &[ArtifactKind::Prepared],
        produces: ArtifactKind::Descriptions,
        sharded: true,
    },
    StepSpec {
        name: StepName::Train,
        consumes: &[ArtifactKind::Prepared, ArtifactKind::Descriptions],
        produces: ArtifactKind::Adapter,
        sharded: false,
    },
];

/// The steps of a run of `kind`, in order.
#[must_use]
pub const fn steps(kind: RunKind) -> &'static [StepSpec] {
    match kind {
        RunKind::StageOneRun => &STAGE_ONE,
        RunKind::StageTwoRun => &STAGE_TWO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_made_by_an_earlier_step() {
        for kind in [RunKind::StageOneRun, RunKind::StageTwoRun] {
            let mut made = Vec::new();
            for step in steps(kind) {
                for input in step.consumes {
                    assert!(
                        made.contains(input),
                        "{kind:?}: {} reads {input:?} before it is made",
                        step.name
                    );
                }
                made.push(step.produces);
            }
            assert_eq!(made.last(), Some(&ArtifactKind::Adapter));
        }
    }
}
