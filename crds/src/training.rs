//! The training section of both kinds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::{ActivationCheckpointing, DpoLoss, LoraTarget, Reference, Schedule};

use crate::decimal::Decimal;
use crate::{cel, choices};

/// How stage 1 trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneTraining {
    /// The training method: DPO on pairs, or SFT on the chosen responses alone. SFT requires preferences.negatives
    /// None, and DPO any other value.
    #[serde(default)]
    pub method: Method,
    /// The reference policy of DPO: Base is the base model; InitialAdapter is a frozen copy of initFrom.adapter.
    #[serde(default = "reference")]
    #[schemars(schema_with = "choices::reference")]
    pub reference: Reference,
    /// Settings of method DPO. Must be left out with SFT.
    #[serde(default)]
    pub dpo: Dpo,
    /// Settings of method SFT. Must be left out with DPO.
    #[serde(default)]
    pub sft: StageOneSft,
    /// The shape of the new adapter. Absent means the defaults below. Must be absent if initFrom is set, because a
    /// continued adapter keeps its shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// The AdamW optimizer and its learning rate schedule.
    #[serde(default)]
    pub optimizer: Optimizer<1>,
    /// The number of passes over the pairs.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub epochs: u32,
    /// The number of pairs per optimizer step. The trainer chooses how many of them the device processes at once.
    #[serde(default = "stage_one_batch")]
    #[schemars(range(min = 1, max = 65_536))]
    pub global_batch_size: u32,
    /// The length in tokens at which a training example is cut off, image included. Absent means that an item that may
    /// become too long for the model cannot be used; in profile OfficialCompat it means 1048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_length: Option<u32>,
    /// The number format of the frozen weights and of the forward pass. Auto is BF16 if the pods for generation and
    /// training all request GPUs, and F32 otherwise. A resource claim counts as a GPU if it, its template or its request
    /// is named like one. status.resolved says what Auto became, and why. LoRA weights are always F32.
    #[serde(default)]
    pub precision: Precision,
    /// The number of optimizer steps between checkpoints, from which an interrupted training resumes.
    #[serde(default = "save_steps")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub save_steps: u32,
    /// Which layers are checkpointed, which means that only their input is kept for the backward pass and that they are
    /// computed twice: Auto is those whose activations memory has no room for; EveryLayer takes the least memory; None is
    /// the fastest. A change applies when the step is started the next time. It does not affect the result.
    #[serde(default)]
    #[schemars(schema_with = "choices::activation_checkpointing")]
    pub activation_checkpointing: ActivationCheckpointing,
}

/// How stage 2 trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTwoTraining {
    /// The training method. Only SFT is supported.
    #[serde(default)]
    pub method: StageTwoMethod,
    /// The shape of the new adapter. Absent means the defaults below. Must be absent unless initFrom.baseModel is
    /// set, because a continued adapter keeps its shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// The AdamW optimizer and its learning rate schedule.
    #[serde(default)]
    pub optimizer: Optimizer<2>,
    /// The number of passes over the instructions.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub epochs: u32,
    /// The number of conversations per optimizer step. The trainer chooses how many of them the device processes at
    /// once.
    #[serde(default = "stage_two_batch")]
    #[schemars(range(min = 1, max = 65_536))]
    pub global_batch_size: u32,
    /// The length in tokens at which a training example is cut off, image included. Absent means that an item that may
    /// become too long for the model cannot be used; in profile OfficialCompat it means 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_length: Option<u32>,
    /// The number format of the frozen weights and of the forward pass. Auto is BF16 if the pods for generation and
    /// training all request GPUs, and F32 otherwise. A resource claim counts as a GPU if it, its template or its request
    /// is named like one. status.resolved says what Auto became, and why. LoRA weights are always F32.
    #[serde(default)]
    pub precision: Precision,
    /// The number of optimizer steps between checkpoints, from which an interrupted training resumes.
    #[serde(default = "save_steps")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub save_steps: u32,
    /// Which layers are checkpointed, which means that only their input is kept for the backward pass and that they are
    /// computed twice: Auto is those whose activations memory has no room for; EveryLayer takes the least memory; None is
    /// the fastest. A change applies when the step is started the next time. It does not affect the result.
    #[serde(default)]
    #[schemars(schema_with = "choices::activation_checkpointing")]
    pub activation_checkpointing: ActivationCheckpointing,
}

/// The training method of stage 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// Direct preference optimization.
    #[default]
    #[serde(rename = "DPO")]
    Dpo,
    /// Supervised fine-tuning.
    #[serde(rename = "SFT")]
    Sft,
}

/// The training method of stage 2.
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
    /// BF16 on GPUs, F32 on CPUs.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// bfloat16. Needs a GPU.
    #[serde(rename = "BF16")]
    Bf16,
}

/// Direct preference optimization with STIC's regularizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dpo {
    /// The loss as a function of the margin between the chosen and the rejected response. Sigmoid is DPO.
    #[serde(default = "dpo_loss")]
    #[schemars(schema_with = "choices::dpo_loss")]
    pub loss: DpoLoss,
    /// How strongly the policy is kept close to the reference.
    #[serde(default = "beta")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub beta: Decimal,
    /// The assumed share of preferences that are the wrong way round, from 0 to 0.5 (conservative DPO).
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::up_to_half()))]
    pub label_smoothing: Decimal,
    /// The weight of STIC's regularizer, alpha in the paper: it multiplies log p(chosen), summed over tokens, and is
    /// subtracted from the loss.
    #[serde(default = "chosen_log_prob_weight")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub chosen_log_prob_weight: Decimal,
}

/// Settings of method SFT in stage 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageOneSft {
    /// The peak learning rate of SFT. It replaces optimizer.learningRate.
    #[serde(default = "sft_learning_rate")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub learning_rate: Decimal,
}

/// The shape of a new LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lora {
    /// The rank of the adapter. To serve it, start vLLM with a --max-lora-rank of at least this value.
    #[serde(default = "rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub rank: u32,
    /// The scaling of the adapter: its output is multiplied by alpha/rank.
    #[serde(default = "alpha")]
    #[schemars(range(min = 1, max = 65_536))]
    pub alpha: u32,
    /// The dropout probability on the adapter's input, from 0 to less than 1. With a value above 0, training is
    /// slower, because chosen and rejected cannot share the computation of their prompt.
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::below_one()))]
    pub dropout: Decimal,
    /// The projections of the language model to adapt. Defaults to all seven.
    #[serde(default = "targets")]
    #[schemars(schema_with = "choices::lora_targets")]
    pub targets: Vec<LoraTarget>,
}

/// AdamW with betas 0.9 and 0.999, and its learning rate schedule. The stages differ in the default learning rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Optimizer<const STAGE: u8> {
    /// The peak learning rate.
    #[serde(default = "learning_rate::<STAGE>")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive()))]
    pub learning_rate: Decimal,
    /// The learning rate after warm-up: Cosine and Linear fall to 0; Constant stays at the peak.
    #[serde(default = "schedule")]
    #[schemars(schema_with = "choices::schedule")]
    pub schedule: Schedule,
    /// The share of optimizer steps, from 0 to 1, over which the learning rate rises linearly from 0.
    #[serde(default = "warmup_ratio")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub warmup_ratio: Decimal,
    /// The decoupled weight decay.
    #[serde(default = "zero")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub weight_decay: Decimal,
    /// The global L2 norm to which gradients are clipped. 0 disables clipping.
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
            max_length: None,
            precision: Precision::default(),
            save_steps: save_steps(),
            activation_checkpointing: ActivationCheckpointing::default(),
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
            max_length: None,
            precision: Precision::default(),
            save_steps: save_steps(),
            activation_checkpointing: ActivationCheckpointing::default(),
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

// 1/1024: the released code divides the sum by the maximum number of tokens in a response.
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
