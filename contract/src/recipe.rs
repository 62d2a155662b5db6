//! The recipe of a run, fully resolved: everything about the method that determines the bytes of an artifact.

use serde::{Deserialize, Serialize};

use crate::enumerated::enumerated;

enumerated! {
    /// The template that wraps a prompt and its response.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum ChatTemplate {
        /// The model's own chat template.
        Auto,
        /// `[INST] <image>\nQ [/INST] A</s>`.
        MistralInstruct,
        /// `A chat between ... USER: <image>\nQ ASSISTANT: A</s>`.
        VicunaV1,
    }
}

enumerated! {
    /// Into how many crops an image is split.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum ImageLayout {
        /// As the model's processor configures: anyres on LLaVA-1.6, one crop on LLaVA-1.5.
        Model,
        /// One crop, padded to a square with the mean colour, as in the training of the released code.
        Pad,
    }
}

enumerated! {
    /// The number format of the frozen weights and of the forward pass.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Precision {
        /// 32-bit floating point.
        F32,
        /// bfloat16; GPUs only.
        Bf16,
    }
}

enumerated! {
    /// What happens to an item whose row is malformed, whose image cannot be read, or that is too long for the model.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum OnUnreadable {
        /// The item is skipped, and recorded with the reason.
        Skip,
        /// The step fails with exit code 65.
        Fail,
    }
}

enumerated! {
    /// Which items a limit selects.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Order {
        /// Those with the smallest hash(seed, id), so a smaller limit selects a subset of a larger one.
        Seeded,
        /// The first ones of the file, as in the released code.
        FirstN,
    }
}

/// How tokens are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits. 0 means greedy decoding.
    pub temperature: f64,
    /// Nucleus sampling: the smallest set of tokens whose probabilities add up to at least this. 1 keeps all.
    pub top_p: f64,
    /// The number of likeliest tokens to sample from. 0 keeps all.
    pub top_k: u32,
    /// The maximum length of a response, in tokens.
    pub max_new_tokens: u32,
}

enumerated! {
    /// Where rejected responses come from (Table 4 of the paper).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Negatives {
        /// Hallucination prompts and corrupted images.
        Both,
        /// Hallucination prompts only.
        PromptsOnly,
        /// Corrupted images only.
        ImagesOnly,
        /// No rejected responses: SFT on the chosen ones (Table 3).
        None,
    }
}

enumerated! {
    /// Where preference pairs come from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum PreferenceSource {
        /// The model generates both responses (Algorithm 1).
        Generate,
        /// A file contains both.
        File,
        /// The instruction's ground truth is chosen, the model's own answer is rejected (SPIN).
        Instructions,
    }
}

/// How stage 1's preference pairs are generated (Algorithm 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferenceRecipe {
    /// Where preference pairs come from.
    pub source: PreferenceSource,
    /// Where rejected responses come from.
    pub negatives: Negatives,
    /// The probability that a rejected response comes from a corrupted image. 1 for [`Negatives::ImagesOnly`], 0 for
    /// [`Negatives::PromptsOnly`] and [`Negatives::None`].
    pub corrupted_share: f64,
    /// Prompts for training; one is drawn per item.
    pub caption_prompts: Vec<String>,
    /// The prompt of chosen responses.
    pub well_curated_prompt: String,
    /// Prompts for rejected responses on clean images; one is drawn per response.
    pub hallucination_prompts: Vec<String>,
    /// Corruptions; one is drawn per corrupted image, by weight. If empty, a response that should come from a corrupted image
    /// comes from the caption prompt on the clean image, as in the released code.
    pub corruptions: Vec<WeightedCorruption>,
    /// How responses are sampled.
    pub sampling: Sampling,
    /// The template for generation.
    pub chat_template: ChatTemplate,
}

/// A corruption and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedCorruption {
    /// How often it is drawn, relative to the sum of all weights.
    pub weight: u32,
    /// The change to the image.
    pub corruption: Corruption,
}

/// A change that makes an image harder to describe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Corruption {
    /// Bilinear resize to a shorter side of `short_side` pixels; not scaled back up.
    LowResolution {
        /// The length of the shorter side, in pixels.
        short_side: u32,
    },
    /// torchvision's `ColorJitter`: brightness and hue, in random order.
    ColorJitter {
        /// Brightness is multiplied by a factor from `[1 - brightness, 1 + brightness]`.
        brightness: f64,
        /// Hue is shifted by a share of the colour circle from `[-hue, hue]`; at most 0.5.
        hue: f64,
    },
    /// Diffusion noise on the preprocessed crops, as in POVID.
    GaussianNoise {
        /// The diffusion step, 0 to 999.
        steps: u32,
    },
}

/// How stage 2's image descriptions are generated (Algorithm 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptionRecipe {
    /// Prompts; one is drawn per item.
    pub prompts: Vec<String>,
    /// How descriptions are sampled.
    pub sampling: Sampling,
    /// The template for generation.
    pub chat_template: ChatTemplate,
}

/// How an adapter is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainRecipe {
    /// The loss and its settings.
    pub objective: Objective,
    /// The shape of a new adapter. Absent if an existing one is continued.
    pub lora: Option<Lora>,
    /// AdamW and its learning rate schedule.
    pub optimizer: Optimizer,
    /// The number of passes over the data.
    pub epochs: u32,
    /// The number of pairs or conversations per optimizer step.
    pub global_batch_size: u32,
    /// The length at which sequences are truncated, in tokens. Absent means that a sequence too long for the model is an error.
    pub max_length: Option<u32>,
    /// Whether the prompt of training examples includes the image. The released stage 1 trains without.
    pub with_image: bool,
    /// The template for training examples.
    pub chat_template: ChatTemplate,
    /// The number of optimizer steps between checkpoints. It does not affect the result.
    pub save_steps: u32,
}

enumerated! {
    /// Which layers are checkpointed: only their input is kept for the backward pass, which computes them again. It does not
    /// affect the result.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum ActivationCheckpointing {
        /// Those whose activations memory has no room for.
        #[default]
        Auto,
        /// All.
        EveryLayer,
        /// None.
        None,
    }
}

/// The training objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Objective {
    /// Direct preference optimisation.
    Dpo(Dpo),
    /// Supervised fine-tuning: mean negative log-likelihood over the label tokens of the global batch.
    Sft {
        /// Stage 2's template of the first human turn, with `{description}` and `{question}`. Absent in stage 1, which trains
        /// on the chosen response under its caption prompt.
        infusion: Option<String>,
    },
}

/// Direct preference optimisation with STIC's regulariser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dpo {
    /// The loss as a function of the margin.
    pub loss: DpoLoss,
    /// How strongly the policy is kept close to the reference.
    pub beta: f64,
    /// The assumed share of flipped preferences (cDPO).
    pub label_smoothing: f64,
    /// The paper's alpha. It multiplies log p(chosen), summed over tokens, and is subtracted from the loss.
    pub chosen_log_prob_weight: f64,
    /// How log p(rejected) is computed.
    pub rejected_term: RejectedTerm,
    /// The reference policy.
    pub reference: Reference,
    /// Noise on the image of the rejected response during training, in diffusion steps (POVID). Absent means none.
    pub rejected_image_noise_steps: Option<u32>,
}

enumerated! {
    /// The loss as a function of the margin h = beta * (policy log-ratio - reference log-ratio).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum DpoLoss {
        /// `-log sigmoid(h)`; with label smoothing, cDPO.
        Sigmoid,
        /// `max(0, 1 - h)`.
        Hinge,
        /// `(h / beta - 1 / (2 beta))^2`.
        Ipo,
    }
}

enumerated! {
    /// How log p(rejected) is computed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum RejectedTerm {
        /// The log probability of the rejected tokens.
        LogProb,
        /// As in the released code: per token the top logit, or the second one where the top is the label.
        TopLogit,
    }
}

enumerated! {
    /// The reference policy of DPO.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Reference {
        /// The base model, with the adapter switched off.
        Base,
        /// A frozen copy of the adapter that the run starts from.
        InitialAdapter,
    }
}

/// The shape of a new LoRA adapter: `y = Wx + (alpha / rank) B A x`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lora {
    /// The rank of A and B.
    pub rank: u32,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// The dropout probability on the adapter's input during training.
    pub dropout: f64,
    /// The projections of the language model to adapt.
    pub targets: Vec<LoraTarget>,
}

enumerated! {
    /// A projection of the language model that can be adapted.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(missing_docs, reason = "the names are those of the projections")]
    pub enum LoraTarget {
        QProj,
        KProj,
        VProj,
        OProj,
        GateProj,
        UpProj,
        DownProj,
    }
}

impl LoraTarget {
    /// The name of the projection in tensor names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The name of the block that contains it in tensor names.
    #[must_use]
    pub const fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }
}

/// AdamW with betas 0.9 and 0.999 and epsilon 1e-8, and its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Optimizer {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The learning rate after warm-up.
    pub schedule: Schedule,
    /// The learning rate rises linearly from 0 over the first `ceil(warmup_ratio * steps)` steps.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm. 0 disables clipping.
    pub max_gradient_norm: f64,
}

enumerated! {
    /// The learning rate after warm-up.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Schedule {
        /// Falls to 0 along half a cosine.
        Cosine,
        /// Falls to 0 linearly.
        Linear,
        /// Stays at the peak.
        Constant,
    }
}
