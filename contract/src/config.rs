//! The run config: one versioned JSON document per step, fully resolved.
//!
//! Architecture Invariant: the trainer has no defaults of its own. Every hyperparameter is in this document, and none is
//! passed in an environment variable. Unknown keys are rejected, with their path ([`RunConfig::from_json`]).

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::artifact::{AdapterLocation, ArtifactRef};
use crate::digest::Digest;
use crate::evaluation::{Answer, Judge, PrepareEvaluation, Score};
use crate::identity::{RunIdentity, VolumePath};
use crate::pipeline::StepName;
use crate::recipe::{
    ActivationCheckpointing, DescriptionRecipe, ImageLayout, OnUnreadable, Order, Precision,
    PreferenceRecipe, TrainRecipe,
};

/// The version of the document that this code reads and writes.
pub const VERSION: u32 = 1;

/// Everything that one step of one run needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunConfig {
    /// Always [`VERSION`]; another one is refused.
    pub version: u32,
    /// The run that the step belongs to.
    pub run: RunIdentity,
    /// The folder for artifacts.
    pub output: VolumePath,
    /// Every random draw is keyed by this seed, the item's id and the purpose of the draw.
    pub seed: u64,
    /// How many GPUs the pod of the step requests. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<NonZeroU32>,
    /// The step, and its own settings.
    pub task: Task,
}

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRunConfig {
    /// It is not JSON of this shape.
    #[error("at {path}: {reason}")]
    Shape {
        /// The path of the key, `.` for the document itself.
        path: String,
        /// What is wrong with that key.
        reason: String,
    },
    /// It has another version, which may have other keys.
    #[error(
        "at version: this trainer reads version {VERSION}, not {found}; use the trainer image of the operator that wrote the run config"
    )]
    Version {
        /// The version of the document.
        found: u32,
    },
}

impl RunConfig {
    /// Parses a document.
    ///
    /// # Errors
    /// If the version is another one, or a key is unknown, missing or of the wrong type; the error has the key's path.
    pub fn from_json(text: &str) -> Result<Self, InvalidRunConfig> {
        /// Checked first: a document of another version may have other keys, and its version explains more than they do.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if let Ok(Versioned { version: found }) = serde_json::from_str(text)
            && found != VERSION
        {
            return Err(InvalidRunConfig::Version { found });
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let config: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
            InvalidRunConfig::Shape { path: e.path().to_string(), reason: e.inner().to_string() }
        })?;
        deserializer
            .end()
            .map_err(|e| InvalidRunConfig::Shape { path: ".".into(), reason: e.to_string() })?;
        Ok(config)
    }

    /// The step that this document configures.
    #[must_use]
    pub const fn step(&self) -> StepName {
        self.task.step()
    }
}

/// The settings of a step, tagged with its name. The tag is outside, so that errors inside keep their path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Check and digest every input.
    Prepare(Box<Prepare>),
    /// Generate preference pairs.
    Generate(Box<Generate>),
    /// Generate descriptions of the instructions' images.
    Describe(Box<Describe>),
    /// Train a LoRA adapter.
    Train(Box<Train>),
    /// Check and digest the inputs of an evaluation.
    PrepareEvaluation(Box<PrepareEvaluation>),
    /// Ask models the questions of benchmarks.
    Answer(Box<Answer>),
    /// Ask a judge about the answers.
    Judge(Box<Judge>),
    /// Score the answers.
    Score(Box<Score>),
}

impl Task {
    /// The step that these settings belong to.
    #[must_use]
    pub const fn step(&self) -> StepName {
        match self {
            Self::Prepare(_) | Self::PrepareEvaluation(_) => StepName::Prepare,
            Self::Generate(_) => StepName::Generate,
            Self::Describe(_) => StepName::Describe,
            Self::Train(_) => StepName::Train,
            Self::Answer(_) => StepName::Answer,
            Self::Judge(_) => StepName::Judge,
            Self::Score(_) => StepName::Score,
        }
    }

    /// The number format that the step computes in; `None` for a step that computes nothing.
    #[must_use]
    pub const fn precision(&self) -> Option<Precision> {
        match self {
            Self::Prepare(_) | Self::PrepareEvaluation(_) | Self::Judge(_) | Self::Score(_) => None,
            Self::Answer(task) => Some(task.recipe.precision),
            Self::Generate(task) => Some(task.precision),
            Self::Describe(task) => Some(task.precision),
            Self::Train(task) => Some(task.precision),
        }
    }
}

/// The base model before `prepare` has digested it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelLocation {
    /// The folder of the checkpoint.
    pub location: VolumePath,
    /// Into how many crops an image is split.
    pub image_layout: ImageLayout,
}

/// The base model, verified by its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelInput {
    /// The folder of the checkpoint.
    pub location: VolumePath,
    /// The digest that `prepare` reported.
    pub digest: Digest,
    /// Into how many crops an image is split.
    pub image_layout: ImageLayout,
}

/// Settings of `prepare`: the inputs of the whole run, and what later steps will do with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prepare {
    /// The base model, a LLaVA checkpoint.
    pub model: ModelLocation,
    /// The adapter to continue from. Absent means that training starts with a new one.
    pub adapter: Option<AdapterLocation>,
    /// Where the items come from.
    pub source: ItemSource,
    /// How the data of the training is generated from the items.
    pub recipe: DataRecipe,
    /// The training that follows. Every item is checked against its template and length limit.
    pub train: TrainRecipe,
    /// The number format that later steps use.
    pub precision: Precision,
    /// Whether a later step computes in bf16 without a GPU, which is slow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16_on_cpu: bool,
    /// Whether a later step uses a GPU, whose memory `prepare` then estimates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uses_gpu: bool,
}

/// Where the items of a run come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ItemSource {
    /// Every image of a folder, or those named in a list. An item's id is its path under the folder.
    Images {
        /// The folder of the images.
        location: VolumePath,
        /// A file that lists images, relative to the folder: relative paths, one per line or as JSON. Absent means every
        /// image.
        list_file: Option<String>,
        /// The number of images to use: those with the smallest hash(seed, id). Absent means all.
        limit: Option<u64>,
        /// Whether an item that cannot be used is skipped or fails the step.
        on_unreadable: OnUnreadable,
        /// The share of skipped items above which the step fails. Absent means any share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_skipped_share: Option<f64>,
    },
    /// Conversations about images, in LLaVA's format.
    Instructions(Instructions),
    /// Existing preference pairs: rows with `id`, `image`, `prompt`, `chosen`, `rejected`.
    Pairs {
        /// The folder of the file.
        location: VolumePath,
        /// The file with the pairs, relative to the folder.
        file: String,
        /// The folder of the images.
        images: VolumePath,
        /// The number of pairs to use. Absent means all.
        limit: Option<u64>,
        /// Whether an item that cannot be used is skipped or fails the step.
        on_unreadable: OnUnreadable,
        /// The share of skipped items above which the step fails. Absent means any share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_skipped_share: Option<f64>,
    },
}

/// Conversations in LLaVA's JSON or JSONL format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instructions {
    /// The folder of the file.
    pub location: VolumePath,
    /// The file with the conversations, relative to the folder.
    pub file: String,
    /// The folder of the images.
    pub images: VolumePath,
    /// The number of conversations with an image to use. Absent means all.
    pub limit: Option<u64>,
    /// Which conversations a limit selects.
    pub order: Order,
    /// Whether an item that cannot be used is skipped or fails the step.
    pub on_unreadable: OnUnreadable,
    /// The share of skipped items above which the step fails. Absent means any share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_skipped_share: Option<f64>,
}

/// How the training data is generated from the items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataRecipe {
    /// Stage 1: preference pairs.
    Preferences(PreferenceRecipe),
    /// Stage 2: image descriptions.
    Descriptions(DescriptionRecipe),
}

/// Settings of `generate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generate {
    /// The base model that generates.
    pub model: ModelInput,
    /// The adapter that is applied to the model. Absent means none.
    pub adapter: Option<ArtifactRef>,
    /// The artifact of `prepare`.
    pub items: ArtifactRef,
    /// The folder of the images.
    pub images: VolumePath,
    /// How pairs are generated.
    pub recipe: PreferenceRecipe,
    /// The number format of weights and activations.
    pub precision: Precision,
    /// The number of shards that share the items. It does not affect the result.
    pub shards: u32,
    /// How many responses are generated at a time. Absent means as many as memory has room for. It does not affect the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<NonZeroU32>,
}

/// Settings of `describe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Describe {
    /// The base model that generates.
    pub model: ModelInput,
    /// The adapter that is applied to the model. Absent means none.
    pub adapter: Option<ArtifactRef>,
    /// The artifact of `prepare`.
    pub items: ArtifactRef,
    /// The folder of the images.
    pub images: VolumePath,
    /// How descriptions are generated.
    pub recipe: DescriptionRecipe,
    /// The number format of weights and activations.
    pub precision: Precision,
    /// The number of shards that share the items. It does not affect the result.
    pub shards: u32,
    /// How many responses are generated at a time. Absent means as many as memory has room for. It does not affect the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<NonZeroU32>,
}

/// Settings of `train`: LoRA with DPO or SFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Train {
    /// The base model, a LLaVA checkpoint.
    pub model: ModelInput,
    /// The adapter to continue. Absent means a new one.
    pub adapter: Option<ArtifactRef>,
    /// The artifact of `prepare`.
    pub items: ArtifactRef,
    /// The pairs or descriptions to train on.
    pub data: TrainData,
    /// The folder of the images.
    pub images: VolumePath,
    /// The objective and the optimizer.
    pub recipe: TrainRecipe,
    /// The number format of the frozen weights and the forward pass. LoRA weights and optimizer moments are always f32.
    pub precision: Precision,
    /// Which layers are checkpointed. It does not affect the result.
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation_checkpointing: ActivationCheckpointing,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The data that a training reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrainData {
    /// Shards of this run, which `train` merges into an artifact first.
    Shards(ShardSet),
    /// A complete artifact.
    Sealed(ArtifactRef),
}

/// The shards that a sharded step left in the run's partial folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardSet {
    /// The name of the folder: in the run's partial folder now, and directly under the output path once merged.
    pub folder: String,
    /// The number of shards that must be present.
    pub shards: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_reported_with_its_path() {
        let text = r#"{"version":1,"run":{"kind":"StageOneRun","namespace":"n","name":"a","uid":"u","rerun":0},
            "output":{"volume":"out","path":""},"seed":0,
            "task":{"prepare":{"model":{"location":{"volume":"m","path":"x"},"imageLayout":"Model","colour":1}}}}"#;
        let error = RunConfig::from_json(text).expect_err("there is no such key").to_string();
        assert!(error.contains("task.prepare.model.colour"), "{error}");
        assert!(error.contains("unknown field `colour`"), "{error}");
    }

    /// serde_json's faster parser of numbers, which it takes without `float_roundtrip`, reads another one here.
    #[test]
    fn a_number_is_the_same_after_it_is_written_and_read() {
        let learning_rate = 9.560_545_906_165_129e-11_f64;
        let text = serde_json::to_string(&learning_rate).expect("a number");
        assert_eq!(serde_json::from_str::<f64>(&text).expect("a number"), learning_rate);
    }

    #[test]
    fn another_version_is_refused() {
        let text = r#"{"version":7,"run":{"kind":"StageOneRun","namespace":"n","name":"a","uid":"u","rerun":0},
            "output":{"volume":"out","path":""},"seed":0,"task":{"generate":{"anything":"of that version"}}}"#;
        let error = RunConfig::from_json(text).expect_err("version 7 is not ours").to_string();
        assert_eq!(
            error,
            "at version: this trainer reads version 1, not 7; use the trainer image of the operator that wrote the run config"
        );
        let error = RunConfig::from_json("{}").expect_err("a document without a version").to_string();
        assert!(error.contains("missing field"), "{error}");
    }
}
