//! `StageOneRun`: preference pairs from unlabelled images, then LoRA training on them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::OnUnreadable;

use crate::cel::{self, rule_at};
use crate::choices;
use crate::lifecycle::{Backoff, Profile, Retention};
use crate::model::{AdapterSource, ModelSource};
use crate::pod::Pod;
use crate::preferences::Preferences;
use crate::status::RunStatus;
use crate::training::StageOneTraining;
use crate::volumes::{Output, VolumeFolder};

/// Stage 1 of STIC: the base model describes unlabelled images well and badly, and learns to prefer the good
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
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.display.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.display.progress"),
    printcolumn(name = "Pairs", type_ = "string", json_path = ".status.display.items"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.display.loss"),
    printcolumn(name = "Margin", type_ = "string", json_path = ".status.display.margin"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.display.eta"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".training.method", "(self.training.method == 'SFT') == (self.preferences.negatives == 'None')",
        "method SFT goes with preferences.negatives None, and DPO with all others: change one of the two"),
    rule_at(".training.lora", "!has(self.training.lora) || !has(self.initFrom)",
        "an adapter that is continued keeps its shape: leave out lora, or leave out initFrom"),
    rule_at(".training.reference", "self.training.reference != 'InitialAdapter' || has(self.initFrom)",
        "reference InitialAdapter needs an adapter to start from: set initFrom.adapter, or reference to Base"),
    rule_at(".images.listFile", "!has(self.images.listFile) || self.preferences.source == 'Generate'",
        "listFile chooses images for source Generate; the other sources name their images themselves: leave it out"),
]))]
pub struct StageOneRunSpec {
    /// What the settings that nobody wrote are taken from: the paper, or its released code.
    #[serde(default)]
    pub profile: Profile,
    /// Every random draw is keyed by this and by the item it is for.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    pub seed: u64,
    /// The base model.
    pub model: ModelSource,
    /// The unlabelled images.
    pub images: StageOneImages,
    /// What training starts from. Absent means a new adapter on the base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<StageOneInit>,
    /// How preference pairs are made.
    #[serde(default)]
    pub preferences: Preferences,
    /// How the adapter is trained.
    #[serde(default)]
    pub training: StageOneTraining,
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

/// Unlabelled images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneImages {
    /// Their folder.
    pub volume: VolumeFolder,
    /// A file in the same volume, relative to the folder, that lists images: one relative path a line.
    /// Absent means every image under the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub list_file: Option<String>,
    /// How many to use. They are drawn by the seed, so a smaller number is a part of a larger one. Absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub limit: Option<u64>,
    /// Whether an image that cannot be read is left out and recorded, or fails the run.
    #[serde(default = "skip")]
    #[schemars(schema_with = "choices::on_unreadable")]
    pub on_unreadable: OnUnreadable,
}

/// What stage 1 starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneInit {
    /// An adapter of the same model, which is continued.
    pub adapter: AdapterSource,
}

const fn skip() -> OnUnreadable {
    OnUnreadable::Skip
}
