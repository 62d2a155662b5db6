//! `StageTwoRun`: instructions infused with the model's own descriptions, then LoRA SFT on them.

use kube::CustomResource;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::prompts;
use stic_contract::recipe::{OnUnreadable, Order};

use crate::cel::{self, rule, rule_at};
use crate::choices;
use crate::decimal::Decimal;
use crate::lifecycle::{Backoff, Profile, Retention};
use crate::model::ModelSource;
use crate::pod::Pod;
use crate::preferences::{Sampling, caption_prompts, one};
use crate::status::RunStatus;
use crate::training::StageTwoTraining;
use crate::volumes::{Output, VolumeFolder};

/// Stage 2 of STIC: the model describes the images of instructions from its earlier fine-tuning, and is fine-tuned on
/// these instructions with the descriptions added. The result is a LoRA adapter.
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
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.display.phase"}"#,
    printcolumn = r#"{"name": "Progress", "type": "string", "jsonPath": ".status.display.progress"}"#,
    printcolumn = r#"{"name": "Steps", "type": "string", "jsonPath": ".status.display.items"}"#,
    printcolumn = r#"{"name": "Loss", "type": "string", "jsonPath": ".status.display.loss"}"#,
    printcolumn = r#"{"name": "ETA", "type": "string", "jsonPath": ".status.display.eta"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".training.lora", "!has(self.training.lora) || has(self.initFrom.baseModel)",
        "lora is only allowed with initFrom.baseModel, because a continued adapter keeps its shape: remove it"),
]))]
pub struct StageTwoRunSpec {
    /// The source of settings that are left out: Paper follows the paper; OfficialCompat follows the released code
    /// where it differs from the paper.
    #[serde(default)]
    pub profile: Profile,
    /// The seed of all random draws. Every draw is keyed by the seed and the id of its item, so it does not depend on
    /// order or sharding.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    pub seed: u64,
    /// The model, and the adapter if any, that describes the images and that training starts from.
    pub init_from: StageTwoInit,
    /// The instructions to train on.
    pub instructions: Instructions,
    /// The images that the instructions refer to.
    pub images: StageTwoImages,
    /// How the images are described.
    #[serde(default)]
    pub description: Description,
    /// How a description is added to its instruction.
    #[serde(default)]
    pub infusion: Infusion,
    /// How the adapter is trained.
    #[serde(default)]
    pub training: StageTwoTraining,
    /// The volume for artifacts.
    pub output: Output,
    /// Settings of the pods that run the steps.
    #[serde(default)]
    // Boxed because it is most of the spec, of which a stream of runs has dozens of copies on its stack.
    pub pod: Box<Pod>,
    /// The retry policy for failed steps.
    #[serde(default)]
    pub backoff: Backoff,
    /// The maximum duration of the run in seconds, not counting the time in which it is suspended, queued, or waits for
    /// stage 1. The run fails when it is exceeded. Absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<u32>,
    /// Whether the run is suspended. Running pods save their state and stop, and no step starts; the run resumes from
    /// the saved state when this is set back to false.
    #[serde(default)]
    pub suspend: bool,
    /// What is kept after the run has finished or was deleted.
    #[serde(default)]
    pub retention: Retention,
    /// Raise this number to run again from scratch. A rerun does not reuse earlier artifacts of the same run.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rerun: u32,
    /// Raise this number to continue a failed run with everything that is on disk: finished steps and items are not done
    /// again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub retry: u32,
}

/// What stage 2 starts from. Exactly one field must be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["stageOneRunRef", "adapter", "baseModel"])))]
pub struct StageTwoInit {
    /// A StageOneRun, whose model and adapter are used. This run waits until that one has succeeded, so both can be
    /// applied together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_one_run_ref: Option<RunReference>,
    /// An existing adapter and its base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<ModelAdapter>,
    /// A base model without an adapter, to run stage 2 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<ModelSource>,
}

/// A StageOneRun in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReference {
    /// The name of the StageOneRun.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// A LoRA adapter in PEFT's layout and its base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelAdapter {
    /// The folder of the adapter, with adapter_config.json and adapter_model.safetensors.
    pub volume: VolumeFolder,
    /// The base model that the adapter was trained on.
    pub model: ModelSource,
}

/// Conversations about images, in LLaVA's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instructions {
    /// The folder of the file.
    pub volume: VolumeFolder,
    /// The path of the file, relative to the folder. It holds conversations in LLaVA's JSON or JSONL format.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub file: String,
    /// The number of instructions with an image to use. Absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub limit: Option<u64>,
    /// Which instructions a limit selects: Seeded selects by the seed; FirstN takes the first ones of the file, as
    /// the released code does.
    #[serde(default = "seeded")]
    #[schemars(schema_with = "choices::order")]
    pub order: Order,
}

/// The images that instructions refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTwoImages {
    /// The folder to which the image paths in the instructions are relative.
    pub volume: VolumeFolder,
    /// What happens to an instruction that cannot be used, because it is malformed, its image is missing or broken, or
    /// it is too long for the model: Skip leaves it out and records it in skipped.jsonl; Fail fails the run with a list
    /// of such instructions. Instructions without an image, and those that a limit leaves out, are not looked at.
    #[serde(default = "fail")]
    #[schemars(schema_with = "choices::on_unreadable")]
    pub on_unreadable: OnUnreadable,
    /// The share of the instructions, from 0 to 1, that may be skipped. The run fails above it. Absent means any
    /// share.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub max_skipped_share: Option<Decimal>,
}

/// How images are described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// The prompts for descriptions. One is drawn per instruction. Defaults to the eight prompts of the paper.
    #[serde(default = "caption_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub prompts: Vec<String>,
    /// How descriptions are sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// The number of pods that share the work. It does not affect the result.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u32,
    /// The number of responses that a device generates at a time. Absent means as many as its memory has room for. It does
    /// not affect the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: Option<NonZeroU32>,
}

/// How a description is added to an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Infusion {
    /// The template of the first human turn. {description} and {question} are replaced; `<image>` marks the position of
    /// the image.
    #[serde(default = "infusion")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [
        rule("self.contains('{description}') && self.contains('{question}')",
            "must contain both {description} and {question}"),
        rule("self.split('<image>').size() <= 2", "must not contain <image> more than once: remove the others"),
    ]))]
    pub template: String,
}

impl Default for Description {
    fn default() -> Self {
        Self { prompts: caption_prompts(), sampling: Sampling::default(), shards: one(), batch_size: None }
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
