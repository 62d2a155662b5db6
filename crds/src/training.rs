//! LoRA training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::{DpoLoss, LoraTarget, Reference, Schedule};

use crate::decimal::Decimal;
use crate::{cel, choices};

/// Stage 1's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneTraining {
    /// DPO on pairs, or SFT on the chosen responses alone, which goes with preferences.negatives None.
    #[serde(default)]
    pub method: Method,
    /// DPO's reference policy: the base model, or a frozen copy of the adapter in initFrom.
    #[serde(default = "reference")]
    #[schemars(schema_with = "choices::reference")]
    pub reference: Reference,
    /// The loss of method DPO.
    #[serde(default)]
    pub dpo: Dpo,
    /// What method SFT does otherwise than DPO.
    #[serde(default)]
    pub sft: StageOneSft,
    /// The adapter. Absent means a new one with the defaults below; with initFrom.adapter, whose shape it keeps, it
    /// must be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How weights move.
    #[serde(default)]
    pub optimizer: Optimizer<1>,
    /// Passes over the data.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub epochs: u32,
    /// Pairs per optimizer step. How many the device holds at once is the trainer's business.
    #[serde(default = "stage_one_batch")]
    #[schemars(range(min = 1, max = 65_536))]
    pub global_batch_size: u32,
    /// Auto is BF16 on a GPU and F32 on a CPU. LoRA weights are always F32.
    #[serde(default)]
    pub precision: Precision,
    /// Steps between saves, from which an interrupted training goes on.
    #[serde(default = "save_steps")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub save_steps: u32,
}

/// Stage 2's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTwoTraining {
    /// SFT on instructions that show the model's own description of the image.
    #[serde(default)]
    pub method: StageTwoMethod,
    /// A new adapter, with initFrom.baseModel. Absent means the defaults below; with another initFrom, whose adapter
    /// keeps its shape, it must be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How weights move.
    #[serde(default)]
    pub optimizer: Optimizer<2>,
    /// Passes over the data.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub epochs: u32,
    /// Conversations per optimizer step. How many the device holds at once is the trainer's business.
    #[serde(default = "stage_two_batch")]
    #[schemars(range(min = 1, max = 65_536))]
    pub global_batch_size: u32,
    /// Auto is BF16 on a GPU and F32 on a CPU. LoRA weights are always F32.
    #[serde(default)]
    pub precision: Precision,
    /// Steps between saves, from which an interrupted training goes on.
    #[serde(default = "save_steps")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub save_steps: u32,
}

/// What stage 1 minimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// Direct preference optimisation.
    #[default]
    #[serde(rename = "DPO")]
    Dpo,
    /// Supervised fine-tuning.
    #[serde(rename = "SFT")]
    Sft,
}

/// What stage 2 minimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StageTwoMethod {
    /// Supervised fine-tuning.
    #[default]
    #[serde(rename = "SFT")]
    Sft,
}

/// The number format of the frozen weights and of the forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// BF16 on a GPU, F32 on a CPU.
    #[default]
    Auto,
    /// 32-bit.
    F32,
    /// bfloat16.
    #[serde(rename = "BF16")]
    Bf16,
}

/// Direct preference optimisation with STIC's regulariser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dpo {
    /// The loss of the margin.
    #[serde(default = "dpo_loss")]
    #[schemars(schema_with = "choices::dpo_loss")]
    pub loss: DpoLoss,
    /// How closely the policy is held to the reference.
    #[serde(default = "beta")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub beta: Decimal,
    /// The share of preferences assumed to be the wrong way round.
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::up_to_half()))]
    pub label_smoothing: Decimal,
    /// The paper's alpha: this times log p(chosen), summed over its tokens, is subtracted from the loss.
    #[serde(default = "chosen_log_prob_weight")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub chosen_log_prob_weight: Decimal,
}

/// What method SFT of stage 1 does otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneSft {
    /// The peak learning rate in place of optimizer.learningRate.
    #[serde(default = "sft_learning_rate")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub learning_rate: Decimal,
}

/// A new LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lora {
    /// The rank. vLLM serves it with --max-lora-rank of at least this.
    #[serde(default = "rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub rank: u32,
    /// The adapter is scaled by alpha/rank.
    #[serde(default = "alpha")]
    #[schemars(range(min = 1, max = 65_536))]
    pub alpha: u32,
    /// Dropout on the adapter's input. Above 0, chosen and rejected no longer share the work on image and prompt.
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::below_one()))]
    pub dropout: Decimal,
    /// The projections of the language model that are adapted.
    #[serde(default = "targets")]
    #[schemars(schema_with = "choices::lora_targets")]
    pub targets: Vec<LoraTarget>,
}

/// AdamW with betas 0.9 and 0.999, and its schedule. Stages differ in the default of the learning rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Optimizer<const STAGE: u8> {
    /// The peak learning rate.
    #[serde(default = "learning_rate::<STAGE>")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub learning_rate: Decimal,
    /// The learning rate after the warm-up.
    #[serde(default = "schedule")]
    #[schemars(schema_with = "choices::schedule")]
    pub schedule: Schedule,
    /// The share of steps over which the rate rises from 0.
    #[serde(default = "warmup_ratio")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub warmup_ratio: Decimal,
    /// Decoupled weight decay.
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub weight_decay: Decimal,
    /// Gradients are scaled down to this norm. 0 switches that off.
    #[serde(default = "max_gradient_norm")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub max_gradient_norm: Decimal,
}

impl Default for StageOneTraining {
    fn default() -> Self {
        Self {
            method: Method::default(),
            reference: reference(),
            dpo: Dpo::default(),
            sft: StageOneSft::default(),
            lora: None,
            optimizer: Optimizer::default(),
            epochs: one(),
            global_batch_size: stage_one_batch(),
            precision: Precision::default(),
            save_steps: save_steps(),
        }
    }
}

impl Default for StageTwoTraining {
    fn default() -> Self {
        Self {
            method: StageTwoMethod::default(),
            lora: None,
            optimizer: Optimizer::default(),
            epochs: one(),
            global_batch_size: stage_two_batch(),
            precision: Precision::default(),
            save_steps: save_steps(),
        }
    }
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            loss: dpo_loss(),
            beta: beta(),
            label_smoothing: zero(),
            chosen_log_prob_weight: chosen_log_prob_weight(),
        }
    }
}

impl Default for StageOneSft {
    fn default() -> Self {
        Self { learning_rate: sft_learning_rate() }
    }
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: rank(), alpha: alpha(), dropout: zero(), targets: targets() }
    }
}

impl<const STAGE: u8> Default for Optimizer<STAGE> {
    fn default() -> Self {
        Self {
            learning_rate: learning_rate::<STAGE>(),
            schedule: schedule(),
            warmup_ratio: warmup_ratio(),
            weight_decay: zero(),
            max_gradient_norm: max_gradient_norm(),
        }
    }
}

const fn reference() -> Reference {
    Reference::Base
}

const fn dpo_loss() -> DpoLoss {
    DpoLoss::Sigmoid
}

const fn schedule() -> Schedule {
    Schedule::Cosine
}

fn beta() -> Decimal {
    Decimal::new("0.1")
}

// 1/1024: the released code divides the sum by the most tokens a response can have.
fn chosen_log_prob_weight() -> Decimal {
    Decimal::new("0.0009765625")
}

fn zero() -> Decimal {
    Decimal::new("0")
}

fn learning_rate<const STAGE: u8>() -> Decimal {
    if STAGE == 1 { Decimal::new("1e-7") } else { sft_learning_rate() }
}

fn sft_learning_rate() -> Decimal {
    Decimal::new("2e-5")
}

fn warmup_ratio() -> Decimal {
    Decimal::new("0.03")
}

fn max_gradient_norm() -> Decimal {
    Decimal::new("1")
}

const fn rank() -> u32 {
    128
}

const fn alpha() -> u32 {
    256
}

fn targets() -> Vec<LoraTarget> {
    LoraTarget::ALL.to_vec()
}

const fn one() -> u32 {
    1
}

const fn stage_one_batch() -> u32 {
    8
}

const fn stage_two_batch() -> u32 {
    32
}

const fn save_steps() -> u32 {
    50
}
