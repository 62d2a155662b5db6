//! What a run says about itself. Both kinds say it in the same words.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::{ChatTemplate, ImageLayout, RejectedTerm};
use stic_contract::{ArtifactKind, StepName};

use crate::choices;
use crate::decimal::Decimal;
use crate::lifecycle::Profile;
use crate::model::ModelImage;
use crate::training::Precision;
use crate::volumes::VolumeFolder;

/// The condition that says whether a run is over and how: Unknown, then True or False. Its reason is the phase.
pub const SUCCEEDED: &str = "Succeeded";
/// The condition that says whether all a run needs is there.
pub const INPUTS_READY: &str = "InputsReady";
/// The condition that says whether a run is held.
pub const SUSPENDED: &str = "Suspended";
/// kstatus: True only until the run is accepted and its first child exists, or while a node is lost.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: the run failed.
pub const STALLED: &str = "Stalled";

/// How far a run is, and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// The generation of the spec that this status is about.
    #[serde(default = "nothing_observed")]
    pub observed_generation: i64,
    /// The spec.rerun that this status is about. A raised one starts anew.
    #[serde(default)]
    pub rerun: u32,
    /// Succeeded, InputsReady, Suspended, Reconciling and Stalled. The reason of Succeeded is the phase; every message
    /// ends with what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// When the run was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What the profile and Auto became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// What the inputs were found to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The step that runs, and how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub steps: Vec<StepStatus>,
    /// What the run made, or found made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind"]))]
    pub artifacts: Vec<ArtifactStatus>,
    /// What kubectl get shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
}

/// What the profile and Auto became.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The profile.
    pub profile: Profile,
    /// The number format.
    pub precision: Precision,
    /// The trainer's image, pinned at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainer_image: Option<String>,
    /// The share of rejected responses that come from the second kind of negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted_share: Option<Decimal>,
    /// The template of generated responses.
    #[schemars(schema_with = "choices::chat_template")]
    pub generation_template: ChatTemplate,
    /// The template of training examples.
    #[schemars(schema_with = "choices::chat_template")]
    pub training_template: ChatTemplate,
    /// How many crops an image becomes in training.
    #[schemars(schema_with = "choices::image_layout")]
    pub training_image_layout: ImageLayout,
    /// Whether the prompt of training examples shows the image.
    pub training_with_image: bool,
    /// Sequences are cut here in training. Absent means that none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// What stands for log p(rejected).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::rejected_term")]
    pub rejected_term: Option<RejectedTerm>,
    /// The peak learning rate.
    pub learning_rate: Decimal,
}

/// What the inputs were found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// The base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<InputFolder>,
    /// The adapter the run starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<InputFolder>,
    /// The images, in stage 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<InputItems>,
    /// The instructions, in stage 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<InputItems>,
}

/// A folder and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputFolder {
    /// Where it is. Absent where the model came as an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// The image it came as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ModelImage>,
    /// The digest, once prepare has found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// How many items there are, and their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputItems {
    /// How many.
    pub count: u64,
    /// Over the items and their images.
    pub digest: String,
}

/// How far the running step is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The step.
    #[schemars(schema_with = "choices::step_name")]
    pub step: StepName,
    /// Whole percents.
    pub percent: u8,
    /// Units done.
    pub current_step: u64,
    /// Units in all.
    pub total_steps: u64,
    /// What a unit is: images, items or steps.
    pub unit: String,
    /// Seconds to the end of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_remaining_seconds: Option<u64>,
    /// The latest metrics, under the names TRL gives them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated_time: Option<Time>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Its name.
    #[schemars(schema_with = "choices::step_name")]
    pub name: StepName,
    /// How it stands.
    pub state: StepState,
    /// Its Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
    /// The Job's UID.
    #[serde(rename = "jobUID", skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// How often it was started.
    #[serde(default)]
    pub attempts: u32,
    /// What became of its items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// The data its shards left for the next step to put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<Shards>,
    /// Its pods that ended by themselves before they were done, asking to be resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruptions: Option<Interruptions>,
    /// When it first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Why it failed, or what one should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The data that shards left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shards {
    /// Their folder, below the run's output.
    pub folder: String,
    /// How many there are.
    pub count: u32,
}

/// Pods that ended by themselves before they were done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interruptions {
    /// How many there were, of the index that has most.
    pub total: u32,
    /// How many of them came one after another without progress.
    pub without_progress: u32,
    /// How far the step was at the last one.
    pub at: u64,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "they are Kubernetes' words")]
pub enum StepState {
    Pending,
    Running,
    Suspended,
    Succeeded,
    /// What it would make was there already.
    Reused,
    Failed,
}

/// What became of the items of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemCounts {
    /// Asked for.
    pub total: u64,
    /// Done.
    pub done: u64,
    /// Left out and recorded.
    pub skipped: u64,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactStatus {
    /// What it holds.
    #[schemars(schema_with = "choices::artifact_kind")]
    pub kind: ArtifactKind,
    /// Its folder.
    pub volume: VolumeFolder,
    /// The digest of its payload.
    pub digest: String,
    /// The size of all its files.
    pub size_bytes: u64,
    /// The step that made it.
    #[schemars(schema_with = "choices::step_name")]
    pub step: StepName,
    /// Whether this run made it.
    pub state: ArtifactState,
}

/// Whether a run made an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ArtifactState {
    /// It did.
    Created,
    /// It found it made.
    Reused,
}

/// What `kubectl get` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Display {
    /// The reason of the condition Succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Percents of the running step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Units done and in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<String>,
    /// The latest loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// The latest margin between chosen and rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// The time to the end of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}

impl Default for RunStatus {
    fn default() -> Self {
        Self {
            observed_generation: nothing_observed(),
            rerun: 0,
            conditions: Vec::new(),
            start_time: None,
            completion_time: None,
            resolved: None,
            inputs: None,
            progress: None,
            steps: Vec::new(),
            artifacts: Vec::new(),
            display: None,
        }
    }
}

impl RunStatus {
    /// The condition of a type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }

    /// Whether the run is over, and how.
    #[must_use]
    pub fn succeeded(&self) -> Option<bool> {
        match self.condition(SUCCEEDED)?.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// What is recorded of a step.
    #[must_use]
    pub fn step(&self, name: StepName) -> Option<&StepStatus> {
        self.steps.iter().find(|step| step.name == name)
    }
}

const fn nothing_observed() -> i64 {
    -1
}

fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": generator.subschema_for::<Condition>(),
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
