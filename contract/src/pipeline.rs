//! The steps of each kind of run, the artifacts between them, and their order. Nothing else defines these.
//!
//! To add a step, add a [`StepName`] with its text in [`StepName::as_str`] and its [`Phase`], a row in one of the tables
//! below, and a variant of [`Task`](crate::config::Task) with what the step needs to know. To add a kind of artifact, add
//! an [`ArtifactKind`] and its [`ArtifactSpec`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::enumerated::enumerated;
use crate::identity::RunKind;

enumerated! {
    /// A step of a run: one Job on a cluster, one child process at a time on a laptop. Declared in the order in which
    /// they run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum StepName {
        /// Checks and digests every input; needs no GPU.
        Prepare,
        /// Generates a chosen and a rejected response per image.
        Generate,
        /// Generates an image description per instruction.
        Describe,
        /// Merges the shards of the previous step into one artifact, then trains.
        Train,
        /// Asks models the questions of benchmarks.
        Answer,
        /// Asks a judge about the answers that no rule can score; needs no GPU.
        Judge,
        /// Scores the answers and compares the models; needs no GPU.
        Score,
    }
}

enumerated! {
    /// What an artifact holds. Each kind has an [`ArtifactSpec`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum ArtifactKind {
        /// The checked items of a run.
        Prepared,
        /// Preference pairs.
        Preferences,
        /// Image descriptions for instructions.
        Descriptions,
        /// A LoRA adapter in PEFT's layout.
        Adapter,
        /// The questions of benchmarks, and their images.
        Questions,
        /// What models answered.
        Answers,
        /// What a judge said about the answers.
        Judgements,
        /// Scores, and how the models differ.
        Results,
    }
}

/// The files of a kind of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactSpec {
    /// The first part of the folder's name, before `-` and the digest. Users name the artifact by it.
    pub folder_prefix: &'static str,
    /// The file with the payload. Its digest is the artifact's digest.
    pub payload_file: &'static str,
    /// Further files that the payload's meaning depends on; their digests are in the marker.
    pub companions: &'static [&'static str],
    /// What the folder holds, for help texts and reference pages.
    pub contents: &'static str,
}

impl ArtifactKind {
    /// The files of this kind.
    #[must_use]
    pub const fn spec(self) -> ArtifactSpec {
        match self {
            Self::Prepared => ArtifactSpec {
                folder_prefix: "prepared",
                payload_file: "items.jsonl",
                companions: &[],
                contents: "the checked items: items.jsonl, skipped.jsonl, report.json",
            },
            Self::Preferences => ArtifactSpec {
                folder_prefix: "preferences",
                payload_file: "preferences.jsonl",
                companions: &[],
                contents: "stage 1's pairs: a chosen and a rejected response per image",
            },
            Self::Descriptions => ArtifactSpec {
                folder_prefix: "descriptions",
                payload_file: "descriptions.jsonl",
                companions: &[],
                contents: "stage 2's image descriptions, one per instruction",
            },
            Self::Adapter => ArtifactSpec {
                folder_prefix: "adapter",
                payload_file: "adapter_model.safetensors",
                companions: &["adapter_config.json"],
                contents: "the LoRA adapter in PEFT's layout, its model card and its metrics",
            },
            Self::Questions => ArtifactSpec {
                folder_prefix: "questions",
                payload_file: "questions.jsonl",
                companions: &[],
                contents: "the benchmarks' questions, their images, and report.json",
            },
            Self::Answers => ArtifactSpec {
                folder_prefix: "answers",
                payload_file: "answers.jsonl",
                companions: &[],
                contents: "the answers of every model to every question",
            },
            Self::Judgements => ArtifactSpec {
                folder_prefix: "judgements",
                payload_file: "judgements.jsonl",
                companions: &[],
                contents: "the judge's replies, each with what it was asked",
            },
            Self::Results => ArtifactSpec {
                folder_prefix: "results",
                payload_file: "results.json",
                companions: &["results.csv"],
                contents: "scores and differences between the models: results.json, results.csv",
            },
        }
    }

    /// [`ArtifactSpec::folder_prefix`] of this kind.
    #[must_use]
    pub const fn folder_prefix(self) -> &'static str {
        self.spec().folder_prefix
    }

    /// [`ArtifactSpec::payload_file`] of this kind.
    #[must_use]
    pub const fn payload_file(self) -> &'static str {
        self.spec().payload_file
    }
}

impl StepName {
    /// The name in manifests, file names and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Generate => "generate",
            Self::Describe => "describe",
            Self::Train => "train",
            Self::Answer => "answer",
            Self::Judge => "judge",
            Self::Score => "score",
        }
    }

    /// What the run is doing while this step runs.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Prepare => Phase::Preparing,
            Self::Generate => Phase::Generating,
            Self::Describe => Phase::Describing,
            Self::Train => Phase::Training,
            Self::Answer => Phase::Answering,
            Self::Judge => Phase::Judging,
            Self::Score => Phase::Scoring,
        }
    }

    /// Whether a model is loaded, so that a GPU is of use.
    #[must_use]
    pub const fn computes(self) -> bool {
        match self {
            Self::Generate | Self::Describe | Self::Train | Self::Answer => true,
            Self::Prepare | Self::Judge | Self::Score => false,
        }
    }
}

/// What a run is doing, as users see it. Several steps may share a phase. It decides the reason that the status shows while
/// a step runs, and the section of `spec.pod` that its pods use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Checks inputs, without a GPU.
    Preparing,
    /// Generates preference pairs.
    Generating,
    /// Generates image descriptions.
    Describing,
    /// Trains the adapter.
    Training,
    /// Asks models the questions of benchmarks.
    Answering,
    /// Asks a judge about the answers.
    Judging,
    /// Scores the answers.
    Scoring,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a [`StepName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a step: expected {expected}", expected = StepName::ALL.map(StepName::as_str).join(", "))]
pub struct UnknownStepName(String);

impl FromStr for StepName {
    type Err = UnknownStepName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|step| step.as_str() == text)
            .ok_or_else(|| UnknownStepName(text.to_owned()))
    }
}

/// The inputs and outputs of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSpec {
    /// The step that this row defines.
    pub name: StepName,
    /// The artifacts of earlier steps that it reads.
    pub consumes: &'static [ArtifactKind],
    /// The artifact that it leaves behind. A sharded step leaves shards, which its consumer merges.
    pub produces: ArtifactKind,
    /// Whether it can run as several pods in parallel, each with a share of the items.
    pub sharded: bool,
}

const STAGE_ONE: &[StepSpec] = &[
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

const STAGE_TWO: &[StepSpec] = &[
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

const EVALUATION: &[StepSpec] = &[
    StepSpec { name: StepName::Prepare, consumes: &[], produces: ArtifactKind::Questions, sharded: false },
    StepSpec {
        name: StepName::Answer,
        consumes: &[ArtifactKind::Questions],
        produces: ArtifactKind::Answers,
        sharded: true,
    },
    // Only in runs that name a judge.
    StepSpec {
        name: StepName::Judge,
        consumes: &[ArtifactKind::Questions, ArtifactKind::Answers],
        produces: ArtifactKind::Judgements,
        sharded: false,
    },
    StepSpec {
        name: StepName::Score,
        consumes: &[ArtifactKind::Questions, ArtifactKind::Answers, ArtifactKind::Judgements],
        produces: ArtifactKind::Results,
        sharded: false,
    },
];

/// The steps of a run of `kind`, in order. A run leaves out those that its spec does not ask for.
#[must_use]
pub const fn steps(kind: RunKind) -> &'static [StepSpec] {
    match kind {
        RunKind::StageOneRun => STAGE_ONE,
        RunKind::StageTwoRun => STAGE_TWO,
        RunKind::EvaluationRun => EVALUATION,
    }
}

/// The row of step `name` in a run of `kind`; `None` if such a run has no such step.
#[must_use]
pub fn step(kind: RunKind, name: StepName) -> Option<&'static StepSpec> {
    steps(kind).iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_produced_by_an_earlier_step() {
        for kind in RunKind::ALL {
            let mut produced = Vec::new();
            for step in steps(kind) {
                for input in step.consumes {
                    assert!(
                        produced.contains(input),
                        "{kind}: {} reads {input:?} before it is produced",
                        step.name
                    );
                }
                produced.push(step.produces);
            }
            let last =
                if kind == RunKind::EvaluationRun { ArtifactKind::Results } else { ArtifactKind::Adapter };
            assert_eq!(produced.last(), Some(&last));
        }
    }

    /// The status sorts steps by their name's position in [`StepName`].
    #[test]
    fn steps_are_declared_in_the_order_in_which_they_run() {
        for kind in RunKind::ALL {
            assert!(steps(kind).is_sorted_by(|a, b| a.name < b.name), "{kind}");
        }
    }

    #[test]
    fn every_step_and_artifact_kind_is_used_by_some_run() {
        let specs: Vec<&StepSpec> = RunKind::ALL.into_iter().flat_map(steps).collect();
        for name in StepName::ALL {
            assert!(specs.iter().any(|spec| spec.name == name), "{name}");
        }
        for kind in ArtifactKind::ALL {
            assert!(specs.iter().any(|spec| spec.produces == kind), "{kind:?}");
        }
    }

    #[test]
    fn steps_parse_from_what_they_serialize_to() {
        for step in StepName::ALL {
            assert_eq!(step.as_str().parse(), Ok(step));
            assert_eq!(serde_json::to_value(step).expect("a string"), step.as_str());
        }
        let error = "sing".parse::<StepName>().expect_err("no such step").to_string();
        assert!(error.starts_with("\"sing\" is not a step: expected prepare, generate, "), "{error}");
    }
}
