//! The run config: one versioned JSON document per step, fully resolved.
//!
//! No optional hyperparameter is left for the trainer to default, and none travels in an environment variable.
//! Unknown keys are rejected with the key's path ([`RunConfig::from_json`]).

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::digest::Digest;
use crate::pipeline::StepName;
use crate::recipe::{
    DescriptionRecipe, ImageLayout, OnUnreadable, Order, Precision, PreferenceRecipe, TrainRecipe,
};

/// The version of this document.
pub const VERSION: u32 = 1;

/// Everything one step of one run needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunConfig {
    /// [`VERSION`].
    pub version: u32,
    /// Whose step it is.
    pub run: RunIdentity,
    /// Where artifacts go.
    pub output: VolumePath,
    /// Every random draw is keyed by (seed, item id, purpose).
    pub seed: u64,
    /// What to do.
    pub task: Task,
}

/// The document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRunConfig {
    /// Not JSON of this shape.
    #[error("at {path}: {reason}")]
    Shape {
        /// The key's path, `.` for the document itself.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// Another version of the document.
    #[error(
        "at version: {found} is not the version this trainer reads ({VERSION}); use the trainer image of the operator that wrote it"
    )]
    Version {
        /// The version found.
        found: u32,
    },
}

impl RunConfig {
    /// Reads the document.
    ///
    /// # Errors
    /// Names the path of the key that is unknown, missing or of another type.
    pub fn from_json(text: &str) -> Result<Self, InvalidRunConfig> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let config: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
            InvalidRunConfig::Shape { path: e.path().to_string(), reason: e.inner().to_string() }
        })?;
        deserializer
            .end()
            .map_err(|e| InvalidRunConfig::Shape { path: ".".into(), reason: e.to_string() })?;
        if config.version != VERSION {
            return Err(InvalidRunConfig::Version { found: config.version });
        }
        Ok(config)
    }

    /// The step the task belongs to.
    #[must_use]
    pub const fn step(&self) -> StepName {
        match self.task {
            Task::Prepare(_) => StepName::Prepare,
            Task::Generate(_) => StepName::Generate,
            Task::Describe(_) => StepName::Describe,
            Task::Train(_) => StepName::Train,
        }
    }
}

/// The run a step belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Its kind.
    pub kind: RunKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its rerun counter.
    pub rerun: u32,
}

/// The kinds of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RunKind {
    /// Preference pairs from unlabelled images, then DPO.
    StageOneRun,
    /// Description-infused instructions, then SFT.
    StageTwoRun,
}

/// A path inside a mounted volume.
///
/// The trainer is told the folder that volumes are mounted under; `volume` is a folder in it. So a document
/// is the same on a cluster and on a laptop.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumePath {
    /// The volume's mount name.
    pub volume: String,
    /// The path inside, relative, possibly empty.
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

impl std::fmt::Display for VolumePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.volume, if self.path.is_empty() { "." } else { &self.path })
    }
}

/// What a step does. Externally tagged, so that an error below it still knows its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Digest and check every input.
    Prepare(Box<Prepare>),
    /// Write preference pairs.
    Generate(Box<Generate>),
    /// Write descriptions of the images of instructions.
    Describe(Box<Describe>),
    /// Train a LoRA adapter.
    Train(Box<Train>),
}

/// The base model before `prepare` has seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelLocation {
    /// Its folder.
    pub location: VolumePath,
    /// How many crops an image becomes.
    pub image_layout: ImageLayout,
}

/// The base model, known by its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelInput {
    /// Its folder.
    pub location: VolumePath,
    /// What `prepare` found it to hash to.
    pub digest: Digest,
    /// How many crops an image becomes.
    pub image_layout: ImageLayout,
}

/// `prepare`: the inputs of the whole run, and what later steps will do with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prepare {
    /// The base model.
    pub model: ModelLocation,
    /// The adapter to continue from.
    pub adapter: Option<AdapterLocation>,
    /// What to make items of.
    pub source: ItemSource,
    /// What happens to the images before training.
    pub recipe: DataRecipe,
    /// The training that follows: its template and length limit are checked against every item.
    pub train: TrainRecipe,
    /// The precision of later steps.
    pub precision: Precision,
}

/// An adapter before `prepare` has seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterLocation {
    /// Its folder.
    pub location: VolumePath,
    /// What it must hash to, when another run recorded that; a user's own adapter is digested here.
    pub digest: Option<Digest>,
}

/// Where the items of a run come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ItemSource {
    /// Every image of a folder, or those a list names: an item's id is its path under the folder.
    Images {
        /// The folder.
        location: VolumePath,
        /// A file in the same volume, relative to the folder: one relative path a line.
        list_file: Option<String>,
        /// Keep this many, those of the smallest hash(seed, id).
        limit: Option<u64>,
        /// What to do with an image that cannot be read.
        on_unreadable: OnUnreadable,
    },
    /// LLaVA conversations about images.
    Instructions(Instructions),
    /// Pairs made elsewhere: JSONL of `id`, `image`, `prompt`, `chosen`, `rejected`.
    Pairs {
        /// The folder the file is in.
        location: VolumePath,
        /// The file, relative to the folder.
        file: String,
        /// The folder the images are in.
        images: VolumePath,
        /// Keep this many.
        limit: Option<u64>,
        /// What to do with an image that cannot be read.
        on_unreadable: OnUnreadable,
    },
}

/// LLaVA's conversation JSON or JSONL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instructions {
    /// The folder the file is in.
    pub location: VolumePath,
    /// The file, relative to the folder.
    pub file: String,
    /// The folder the images are in.
    pub images: VolumePath,
    /// Keep this many of the items that have an image.
    pub limit: Option<u64>,
    /// Which ones.
    pub order: Order,
    /// What to do with an image that cannot be read.
    pub on_unreadable: OnUnreadable,
}

/// What happens to items before training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataRecipe {
    /// Stage 1.
    Preferences(PreferenceRecipe),
    /// Stage 2.
    Descriptions(DescriptionRecipe),
}

/// `generate`: preference pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generate {
    /// The model that writes.
    pub model: ModelInput,
    /// The adapter it writes with.
    pub adapter: Option<ArtifactRef>,
    /// The items `prepare` left.
    pub items: ArtifactRef,
    /// The folder the images are in.
    pub images: VolumePath,
    /// How pairs are made.
    pub recipe: PreferenceRecipe,
    /// The precision of the model.
    pub precision: Precision,
    /// How many indexes share the work; no part of the result.
    pub shards: u32,
}

/// `describe`: image descriptions for instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Describe {
    /// The model that writes.
    pub model: ModelInput,
    /// The adapter it writes with.
    pub adapter: Option<ArtifactRef>,
    /// The items `prepare` left.
    pub items: ArtifactRef,
    /// The folder the images are in.
    pub images: VolumePath,
    /// How descriptions are made.
    pub recipe: DescriptionRecipe,
    /// The precision of the model.
    pub precision: Precision,
    /// How many indexes share the work; no part of the result.
    pub shards: u32,
}

/// `train`: LoRA DPO or LoRA SFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Train {
    /// The base model.
    pub model: ModelInput,
    /// The adapter to continue; absent means a new one.
    pub adapter: Option<ArtifactRef>,
    /// The items `prepare` left.
    pub items: ArtifactRef,
    /// The pairs or descriptions.
    pub data: TrainData,
    /// The folder the images are in.
    pub images: VolumePath,
    /// How to train.
    pub recipe: TrainRecipe,
    /// The precision of the frozen weights and the forward pass; LoRA weights and moments are f32.
    pub precision: Precision,
}

/// The data a training reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrainData {
    /// Shards of this run, to be sealed first.
    Shards(ShardSet),
    /// An artifact that is already whole.
    Sealed(ArtifactRef),
}

/// The shards a sharded step left in the run's partial folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardSet {
    /// The name of the folder, in the run's partial folder now and under the output path once sealed.
    pub folder: String,
    /// How many shards there must be.
    pub shards: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_path() {
        let text = r#"{"version":1,"run":{"kind":"StageOneRun","namespace":"n","name":"a","uid":"u","rerun":0},
            "output":{"volume":"out","path":""},"seed":0,
            "task":{"prepare":{"model":{"location":{"volume":"m","path":"x"},"imageLayout":"Model","colour":1}}}}"#;
        let error = RunConfig::from_json(text).expect_err("colour is no key").to_string();
        assert!(error.contains("task.prepare.model.colour"), "{error}");
        assert!(error.contains("unknown field `colour`"), "{error}");
    }

    #[test]
    fn another_version_is_refused_with_the_mend() {
        let text = r#"{"version":7}"#;
        assert!(RunConfig::from_json(text).expect_err("incomplete").to_string().contains("missing field"));
    }

    #[test]
    fn paths_join_without_doubled_separators() {
        let root = VolumePath { volume: "v".into(), path: String::new() };
        assert_eq!(root.join("a").join("b").path, "a/b");
        assert_eq!(root.to_string(), "v:.");
        assert_eq!(VolumePath { volume: "v".into(), path: "a/".into() }.join("b").path, "a/b");
    }
}
