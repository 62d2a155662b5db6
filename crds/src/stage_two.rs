//! `StageTwoRun`: instructions infused with the model's own descriptions, then LoRA SFT on them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::prompts;
use stic_contract::recipe::{OnUnreadable, Order};

use crate::cel::{self, rule, rule_at};
use crate::choices;
use crate::lifecycle::{Backoff, Profile, Retention};
use crate::model::ModelSource;
use crate::pod::Pod;
use crate::preferences::{Sampling, caption_prompts, one};
use crate::status::RunStatus;
use crate::training::StageTwoTraining;
use crate::volumes::{Output, VolumeFolder};

/// Stage 2 of STIC: the model describes the images of instructions it was tuned on before, and is fine-tuned on the
/// instructions with its descriptions put in. The result is a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "stic.dev",
    version = "v1alpha1",
    kind = "StageTwoRun",
    plural = "stagetworuns",
    shortname = "s2",
    category = "stic",
    namespaced,
    status = "RunStatus",
    derive = "PartialEq",
    doc = "Stage 2 of STIC: instructions infused with the model's own image descriptions, and a LoRA adapter trained on them.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.display.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.display.progress"),
    printcolumn(name = "Steps", type_ = "string", json_path = ".status.display.items"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.display.loss"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.display.eta"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".training.lora", "!has(self.training.lora) || has(self.initFrom.baseModel)",
        "an adapter that is continued keeps its shape: leave out lora, or start from initFrom.baseModel"),
]))]
pub struct StageTwoRunSpec {
    /// What the settings that nobody wrote are taken from: the paper, or its released code.
    #[serde(default)]
    pub profile: Profile,
    /// Every random draw is keyed by this and by the item it is for.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    pub seed: u64,
    /// The model that describes and that training starts from.
    pub init_from: StageTwoInit,
    /// The instructions.
    pub instructions: Instructions,
    /// The images that instructions name.
    pub images: StageTwoImages,
    /// How images are described.
    #[serde(default)]
    pub description: Description,
    /// How a description enters an instruction.
    #[serde(default)]
    pub infusion: Infusion,
    /// How the adapter is trained.
    #[serde(default)]
    pub training: StageTwoTraining,
    /// Where artifacts go.
    pub output: Output,
    /// The pods steps run in.
    #[serde(default)]
    pub pod: Pod,
    /// How often a step may fail.
    #[serde(default)]
    pub backoff: Backoff,
    /// Seconds after which the run fails, counted from its start. Absent means never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<u32>,
    /// Whether the run is held. Pods end and save; it goes on from there when this is false again.
    #[serde(default)]
    pub suspend: bool,
    /// What stays when the run is over.
    #[serde(default)]
    pub retention: Retention,
    /// Raise it to run again. A rerun uses nothing that this run has made before.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rerun: u32,
}

/// What stage 2 starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["stageOneRunRef", "adapter", "baseModel"])))]
pub struct StageTwoInit {
    /// The adapter and the model of a StageOneRun. The run waits until that one has succeeded, so both can be
    /// applied at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_one_run_ref: Option<RunReference>,
    /// An adapter from elsewhere, and the model it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<ModelAdapter>,
    /// A base model with no adapter: stage 2 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<ModelSource>,
}

/// A run in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReference {
    /// Its name.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// A LoRA adapter in PEFT's layout and the model it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelAdapter {
    /// The adapter's folder.
    pub volume: VolumeFolder,
    /// The model it belongs to.
    pub model: ModelSource,
}

/// LLaVA's conversations about images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instructions {
    /// The folder the file is in.
    pub volume: VolumeFolder,
    /// The file, relative to the folder: LLaVA's conversation JSON or JSONL.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub file: String,
    /// How many to use of those that have an image. Absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub limit: Option<u64>,
    /// Which ones a limit keeps: Seeded draws them by the seed, FirstN takes the first of the file, as released.
    #[serde(default = "seeded")]
    #[schemars(schema_with = "choices::order")]
    pub order: Order,
}

/// The images that instructions name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTwoImages {
    /// Their folder.
    pub volume: VolumeFolder,
    /// Whether an instruction whose image cannot be read is left out and recorded, or fails the run.
    #[serde(default = "fail")]
    #[schemars(schema_with = "choices::on_unreadable")]
    pub on_unreadable: OnUnreadable,
}

/// How images are described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// One is drawn per instruction.
    #[serde(default = "caption_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub prompts: Vec<String>,
    /// How descriptions are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// How many pods share the work. It changes no result.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u32,
}

/// How a description enters an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Infusion {
    /// What the first human turn becomes. {description} and {question} are filled in; <image> is where the image
    /// stands.
    #[serde(default = "infusion")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [
        rule("self.contains('{description}') && self.contains('{question}')",
            "must contain {description} and {question}"),
        rule("self.split('<image>').size() <= 2", "must not contain <image> more than once"),
    ]))]
    pub template: String,
}

impl Default for Description {
    fn default() -> Self {
        Self { prompts: caption_prompts(), sampling: Sampling::default(), shards: one() }
    }
}

impl Default for Infusion {
    fn default() -> Self {
        Self { template: infusion() }
    }
}

fn infusion() -> String {
    prompts::INFUSION.into()
}

const fn seeded() -> Order {
    Order::Seeded
}

const fn fail() -> OnUnreadable {
    OnUnreadable::Fail
}
