//! `StageOneRun`: preference pairs from unlabelled images, then LoRA training on them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::OnUnreadable;

use crate::cel::{self, rule_at};
use crate::choices;
use crate::decimal::Decimal;
use crate::lifecycle::{Backoff, Profile, Retention};
use crate::model::{AdapterSource, ModelSource};
use crate::pod::Pod;
use crate::preferences::Preferences;
use crate::status::RunStatus;
use crate::training::StageOneTraining;
use crate::volumes::{Output, VolumeFolder};

/// Stage 1 of STIC: the base model describes unlabelled images well and badly, and is trained to prefer the good
/// descriptions. The result is a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "stic.dev",
    version = "v1alpha1",
    kind = "StageOneRun",
    plural = "stageoneruns",
    shortname = "s1",
    category = "stic",
    namespaced,
    status = "RunStatus",
    derive = "PartialEq",
    doc = "Stage 1 of STIC: preference pairs from unlabelled images, and a LoRA adapter trained on them.",
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.display.phase"}"#,
    printcolumn = r#"{"name": "Progress", "type": "string", "jsonPath": ".status.display.progress"}"#,
    printcolumn = r#"{"name": "Pairs", "type": "string", "jsonPath": ".status.display.items"}"#,
    printcolumn = r#"{"name": "Loss", "type": "string", "jsonPath": ".status.display.loss"}"#,
    printcolumn = r#"{"name": "Margin", "type": "string", "jsonPath": ".status.display.margin"}"#,
    printcolumn = r#"{"name": "ETA", "type": "string", "jsonPath": ".status.display.eta"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".training.method", "(self.training.method == 'SFT') == (self.preferences.negatives == 'None')",
        "method SFT requires preferences.negatives None, and DPO any other value: change one of the two"),
    rule_at(".training.optimizer.learningRate",
        "self.training.method != 'SFT' || double(self.training.optimizer.learningRate) == 1e-7",
        "method SFT ignores optimizer.learningRate: set training.sft.learningRate instead"),
    rule_at(".training.sft.learningRate",
        "self.training.method == 'SFT' || double(self.training.sft.learningRate) == 2e-5",
        "method DPO ignores sft.learningRate: set training.optimizer.learningRate instead"),
    rule_at(".training.dpo",
        "self.training.method != 'SFT' || (self.training.dpo.loss == 'Sigmoid' && double(self.training.dpo.beta) == 0.1 && double(self.training.dpo.labelSmoothing) == 0.0 && double(self.training.dpo.chosenLogProbWeight) == 0.0009765625)",
        "method SFT ignores the settings of dpo: remove them or change method to DPO"),
    rule_at(".training.lora", "!has(self.training.lora) || !has(self.initFrom)",
        "lora is not allowed with initFrom, because a continued adapter keeps its shape: remove one of the two"),
    rule_at(".training.reference", "self.training.reference != 'InitialAdapter' || has(self.initFrom)",
        "reference InitialAdapter needs an adapter to start from: set initFrom.adapter or change reference to Base"),
    rule_at(".images.listFile", "!has(self.images.listFile) || self.preferences.source == 'Generate'",
        "listFile is only allowed with preferences.source Generate, because other sources name their images themselves: remove it"),
]))]
pub struct StageOneRunSpec {
    /// The source of settings that are left out: Paper follows the paper; OfficialCompat follows the released code
    /// where it differs from the paper.
    #[serde(default)]
    pub profile: Profile,
    /// The seed of all random draws. Every draw is keyed by the seed and the id of its item, so it does not depend on
    /// order or sharding.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    pub seed: u64,
    /// The base model.
    pub model: ModelSource,
    /// The unlabelled images.
    pub images: StageOneImages,
    /// The adapter to start from. Absent means that training starts with a new adapter on the base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<StageOneInit>,
    /// How preference pairs are generated.
    #[serde(default)]
    pub preferences: Preferences,
    /// How the adapter is trained.
    #[serde(default)]
    pub training: StageOneTraining,
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

/// Unlabelled images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneImages {
    /// The folder of the images, searched recursively.
    pub volume: VolumeFolder,
    /// A file that lists the images to use: one path per line, or JSON. It is in the same volume; its
    /// own path and the listed paths are relative to the folder. An image that is listed again is used once. Absent
    /// means every image in the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub list_file: Option<String>,
    /// The number of images to use. They are selected by the seed, and a smaller limit selects a subset of a larger
    /// one. Absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub limit: Option<u64>,
    /// What happens to an item that cannot be used, because its row is malformed, its image is missing or broken, or it
    /// is too long for the model: Skip leaves it out and records it in skipped.jsonl; Fail fails the run with a list of
    /// such items.
    #[serde(default = "skip")]
    #[schemars(schema_with = "choices::on_unreadable")]
    pub on_unreadable: OnUnreadable,
    /// The share of the items, from 0 to 1, that may be skipped. The run fails above it. Absent means any share.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub max_skipped_share: Option<Decimal>,
}

/// What stage 1 starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneInit {
    /// A LoRA adapter for the same base model. Training continues it.
    pub adapter: AdapterSource,
}

const fn skip() -> OnUnreadable {
    OnUnreadable::Skip
}
