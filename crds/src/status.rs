//! The status of a run, which is the same for every kind.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};
use stic_contract::recipe::{ChatTemplate, ImageLayout, RejectedTerm};
use stic_contract::{ArtifactKind, StepName};

use crate::choices;
use crate::conditions::{ConditionType, Reason};
use crate::decimal::Decimal;
use crate::lifecycle::Profile;
use crate::model::ModelImage;
use crate::training::Precision;
use crate::volumes::VolumeFolder;

/// The observed state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// The generation of the spec that this status describes. -1 until the run is first reconciled.
    #[serde(default = "nothing_observed")]
    pub observed_generation: i64,
    /// The rerun that this status describes. Raising spec.rerun starts a new one, and resets the status.
    #[serde(default)]
    pub rerun: u32,
    /// The value of spec.rerun that was last observed. It is lower than rerun if spec.rerun was lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_rerun: Option<u32>,
    /// The value of spec.retry that was last observed. Raising spec.retry continues a failed run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry: u32,
    /// One condition of each type. The reason of Succeeded is the phase of the run. The message of a problem ends with how
    /// to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The time when the run was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// The time when the run succeeded or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The time in which the run could work, which is what spec.activeDeadlineSeconds limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_time: Option<ActiveTime>,
    /// The settings that the run uses where its spec leaves the choice to the profile or to Auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// The inputs that the run uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The progress of the running step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The steps of the run, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub steps: Vec<StepStatus>,
    /// The artifacts that the run created or reused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind"]))]
    pub artifacts: Vec<ArtifactStatus>,
    /// The headline scores of an evaluation. All scores are in results.csv and results.json of the artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub results: Vec<EvaluationResult>,
    /// The columns of kubectl get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
}

/// The time in which a run could work: it was not suspended, not queued, and did not wait for stage 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveTime {
    /// That time in seconds, counted up to when the run last had to wait or ended.
    pub seconds: u64,
    /// The time since which the run can work again. Absent while it has to wait, and once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// The settings that a run uses where its spec leaves the choice to the profile or to Auto.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The source of settings that the spec leaves out. Absent in an evaluation, as is everything about training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// The number format of the frozen weights and of the forward pass.
    pub precision: Precision,
    /// Why it is that number format. Absent in statuses of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision_reason: Option<String>,
    /// The image of pods that request no GPU and name no image, pinned when the run started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainer_image: Option<String>,
    /// The image of pods that request a GPU and name no image, pinned when the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer_gpu_image: Option<String>,
    /// The share of rejected responses that come from corrupted images, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted_share: Option<Decimal>,
    /// The template that wraps prompts in generation.
    #[schemars(schema_with = "choices::chat_template")]
    pub generation_template: ChatTemplate,
    /// The template that wraps prompts in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::chat_template")]
    pub training_template: Option<ChatTemplate>,
    /// How an image is divided into crops in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::image_layout")]
    pub training_image_layout: Option<ImageLayout>,
    /// Whether the prompts in training contain the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_with_image: Option<bool>,
    /// The length in tokens to which sequences are truncated in training. Absent means that they are not truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// The term of the loss that stands for log p(rejected). Absent where the loss has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::rejected_term")]
    pub rejected_term: Option<RejectedTerm>,
    /// The peak learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<Decimal>,
}

/// The inputs of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// The base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<InputFolder>,
    /// The adapter that the run starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<InputFolder>,
    /// The images of stage 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<InputItems>,
    /// The instructions of stage 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<InputItems>,
    /// The models of an evaluation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub subjects: Vec<InputSubject>,
    /// The questions of an evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions: Option<InputItems>,
}

/// A model that is evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputSubject {
    /// Its name in the results.
    pub name: String,
    /// The base model.
    pub model: InputFolder,
    /// The adapter on it. Absent for the base model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<InputFolder>,
}

/// A folder that a run reads, and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputFolder {
    /// The folder on a volume. Absent if the model comes from an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// The image with the model. Absent if the model is on a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ModelImage>,
    /// The digest of the content. Absent until the step prepare has computed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The number of items that a run reads, and their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputItems {
    /// The number of items.
    pub count: u64,
    /// The digest of the items and their images.
    pub digest: String,
}

/// The progress of the running step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The name of the step.
    #[schemars(schema_with = "choices::step_name")]
    pub step: StepName,
    /// The share of the step that is done, in percent, rounded down.
    pub percent: u8,
    /// The number of units that are done.
    pub current_step: u64,
    /// The number of units in total.
    pub total_steps: u64,
    /// What the units are: images, items or steps.
    pub unit: String,
    /// The estimated time in seconds until the step ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_remaining_seconds: Option<u64>,
    /// The latest metrics, under the names that TRL uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
    /// The time of this report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated_time: Option<Time>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// The name of the step.
    #[schemars(schema_with = "choices::step_name")]
    pub name: StepName,
    /// The state of the step.
    pub state: StepState,
    /// The name of the step's latest Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
    /// The UID of that Job.
    #[serde(rename = "jobUID", skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// The number of pods that were started for the step, including restarts. If it is sharded, those of the shard with
    /// the most.
    #[serde(default)]
    pub attempts: u32,
    /// The number of launches, each a Job, that no longer count against spec.backoff.limit: those before a retry, before
    /// progress, or before a change of spec.pod.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted_launches: u32,
    /// The number of units that were done when that Job was created. Progress beyond it renews the limit of retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_at_launch: Option<u64>,
    /// The items that the step has processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// The data that the shards of the step wrote. The next step merges it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<Shards>,
    /// The pods of the step that saved their state and exited before the step was complete (exit code 75).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruptions: Option<Interruptions>,
    /// The time when the step first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// The time when the step ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The name of the Kueue Workload of that Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// What last kept the pods of a queued step from running. It outlives the pods, which Kueue deletes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_problem: Option<String>,
    /// Why the step waits or failed, or what its result adds, such as a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The data that the shards of a step wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shards {
    /// The folder of the data, relative to the output of the run.
    pub folder: String,
    /// The number of shards.
    pub count: u32,
}

/// Pods of a step that saved their state and exited before the step was complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interruptions {
    /// The number of such pods, counted for the shard that has most of them.
    pub total: u32,
    /// The number of consecutive pods that made no progress.
    pub without_progress: u32,
    /// The number of units that were done when the last of them exited.
    pub at: u64,
}

/// The state of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "they have their usual meaning in Kubernetes")]
pub enum StepState {
    Pending,
    Running,
    Suspended,
    Succeeded,
    /// The artifact of the step existed already.
    Reused,
    Failed,
}

/// The items that a step has processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemCounts {
    /// The number of items of the step.
    pub total: u64,
    /// The number of items that are done.
    pub done: u64,
    /// The number of items that were left out, each with its reason.
    pub skipped: u64,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactStatus {
    /// The kind of the artifact.
    #[schemars(schema_with = "choices::artifact_kind")]
    pub kind: ArtifactKind,
    /// The folder of the artifact.
    pub volume: VolumeFolder,
    /// The digest of the artifact's payload.
    pub digest: String,
    /// The size of the digested files of the artifact, in bytes.
    pub size_bytes: u64,
    /// The step that creates such artifacts.
    #[schemars(schema_with = "choices::step_name")]
    pub step: StepName,
    /// Whether this run created the artifact or reused an existing one.
    pub state: ArtifactState,
}

/// Whether a run created an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ArtifactState {
    /// The run created it.
    Created,
    /// It existed already, and the run uses it.
    Reused,
}

/// The headline score of a model on a benchmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationResult {
    /// The benchmark.
    #[schemars(schema_with = "choices::benchmark")]
    pub benchmark: BenchmarkName,
    /// How the questions were asked.
    #[schemars(schema_with = "choices::one_prompting")]
    pub prompting: Prompting,
    /// By whose rules the answers were scored.
    #[schemars(schema_with = "choices::scorer")]
    pub scorer: Scorer,
    /// The name of the model.
    pub subject: String,
    /// The score in points. Absent if no answer has a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The standard error of the score in points. Absent where the score is not a mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<String>,
    /// The number of answers that the score is over.
    pub answered: u64,
    /// The number of these that no rule understood. They count as wrong.
    pub unresolved: u64,
    /// The number of answers that the judge gave no score. They are not counted.
    pub judge_failed: u64,
    /// The difference to the first model on the same questions. Absent for the first model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<EvaluationDifference>,
}

/// The difference between two models on the same questions, in points, with its 95% interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationDifference {
    /// The name of the model that is subtracted.
    pub to: String,
    /// The difference.
    pub points: String,
    /// The lower bound of the interval.
    pub low: String,
    /// The upper bound of the interval.
    pub high: String,
}

/// The columns of `kubectl get`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Display {
    /// The reason of the condition Succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The share of the running step that is done, such as 42%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The number of units that are done and in total, such as 120/500. The pairs of stage 1 while it trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<String>,
    /// The latest loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// The latest margin between chosen and rejected responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// The score of the last model of an evaluation on the first benchmark, such as ScienceQA 75.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The difference of that score to the first model, with its 95% interval, such as +6.4 (+4.9 to +7.9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// The estimated time until the step ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}

impl Default for RunStatus {
    fn default() -> Self {
        Self {
            observed_generation: nothing_observed(),
            rerun: 0,
            observed_rerun: None,
            retry: 0,
            conditions: Vec::new(),
            start_time: None,
            completion_time: None,
            active_time: None,
            resolved: None,
            inputs: None,
            progress: None,
            steps: Vec::new(),
            artifacts: Vec::new(),
            results: Vec::new(),
            display: None,
        }
    }
}

impl RunStatus {
    /// The condition of the given type.
    #[must_use]
    pub fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind.as_str())
    }

    /// The reason of the condition Succeeded; `None` until the run is first reconciled.
    #[must_use]
    pub fn phase(&self) -> Option<&str> {
        self.condition(ConditionType::Succeeded).map(|condition| condition.reason.as_str())
    }

    /// [`Self::phase`], if this version knows it.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.phase()?.parse().ok()
    }

    /// The value of `spec.rerun` that the operator has seen. An earlier version recorded only the rerun that it carried out.
    #[must_use]
    pub fn seen_rerun(&self) -> u32 {
        self.observed_rerun.unwrap_or(self.rerun)
    }

    /// Whether the run succeeded; `None` until it has ended.
    #[must_use]
    pub fn succeeded(&self) -> Option<bool> {
        match self.condition(ConditionType::Succeeded)?.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// The status of a step, if it has one.
    #[must_use]
    pub fn step(&self, name: StepName) -> Option<&StepStatus> {
        self.steps.iter().find(|step| step.name == name)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
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
