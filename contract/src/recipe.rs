//! The method, fully resolved: what decides the bytes of an artifact.

use serde::{Deserialize, Serialize};

/// Where a prompt's wrapping comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChatTemplate {
    /// The model's own chat template.
    Auto,
    /// `[INST] <image>\nQ [/INST] A</s>`.
    MistralInstruct,
    /// `A chat between ... USER: <image>\nQ ASSISTANT: A</s>`.
    VicunaV1,
}

/// How many crops an image becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageLayout {
    /// What the model's processor says: anyres on LLaVA-1.6, one crop on LLaVA-1.5.
    Model,
    /// One crop, padded to a square with the mean colour, as the released code trains.
    Pad,
}

/// The number format of the frozen weights and of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Precision {
    /// 32-bit.
    F32,
    /// bfloat16, on a GPU.
    Bf16,
}

/// What to do with an image that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnUnreadable {
    /// Leave the item out and record it.
    Skip,
    /// End with exit code 65.
    Fail,
}

/// Which items a limit keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Order {
    /// Those of the smallest hash(seed, id).
    Seeded,
    /// The first ones of the file, as released.
    FirstN,
}

/// How responses are drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 leave nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: f64,
    /// Keeps the smallest set of tokens whose probability reaches this.
    pub top_p: f64,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: u32,
    /// The response ends here at the latest.
    pub max_new_tokens: u32,
}

/// Where the rejected responses come from (Table 4 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Negatives {
    /// Hallucination prompts and corrupted images.
    Both,
    /// Hallucination prompts only.
    PromptsOnly,
    /// Corrupted images only.
    ImagesOnly,
    /// None: SFT on the chosen response (Table 3).
    None,
}

/// Where pairs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PreferenceSource {
    /// The model writes both responses (Algorithm 1).
    Generate,
    /// A file holds both.
    File,
    /// Chosen is the instruction's ground truth, rejected the model's own answer (SPIN).
    Instructions,
}

/// Stage 1's data (Algorithm 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferenceRecipe {
    /// Where pairs come from.
    pub source: PreferenceSource,
    /// Where rejected responses come from.
    pub negatives: Negatives,
    /// The probability that a rejected response comes from a corrupted image: 1 for `ImagesOnly`, 0 for
    /// `PromptsOnly` and `None`.
    pub corrupted_share: f64,
    /// One is drawn per item: the prompt pairs are trained under.
    pub caption_prompts: Vec<String>,
    /// The prompt of chosen responses.
    pub well_curated_prompt: String,
    /// One is drawn per rejected response on a clean image.
    pub hallucination_prompts: Vec<String>,
    /// One is drawn, by weight, per corrupted image. If empty, what should come from a corrupted image comes from
    /// the caption prompt on the clean one, as in the released code.
    pub corruptions: Vec<WeightedCorruption>,
    /// How responses are drawn.
    pub sampling: Sampling,
    /// The template responses are generated under.
    pub chat_template: ChatTemplate,
}

/// A corruption and how often it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedCorruption {
    /// Relative to the sum of the weights.
    pub weight: u32,
    /// What is done to the image.
    pub corruption: Corruption,
}

/// What is done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Corruption {
    /// Bilinear resize so that the shorter side is this many pixels; not scaled back.
    LowResolution {
        /// Pixels.
        short_side: u32,
    },
    /// torchvision's `ColorJitter`: brightness factor in `[1-b, 1+b]`, hue shift in `[-h, h]`, in random order.
    ColorJitter {
        /// b.
        brightness: f64,
        /// h, at most 0.5.
        hue: f64,
    },
    /// Diffusion noise after this many of 1,000 steps, as POVID's, on the preprocessed crops.
    GaussianNoise {
        /// 0 to 999.
        steps: u32,
    },
}

/// Stage 2's data (Algorithm 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptionRecipe {
    /// One is drawn per item.
    pub prompts: Vec<String>,
    /// How descriptions are drawn.
    pub sampling: Sampling,
    /// The template descriptions are generated under.
    pub chat_template: ChatTemplate,
}

/// A training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainRecipe {
    /// What is minimised.
    pub objective: Objective,
    /// A new adapter's shape; absent when one is continued.
    pub lora: Option<Lora>,
    /// How weights move.
    pub optimizer: Optimizer,
    /// Passes over the data.
    pub epochs: u32,
    /// Pairs or conversations per optimizer step.
    pub global_batch_size: u32,
    /// Sequences are cut here; absent means that one that does not fit the model is an error.
    pub max_length: Option<u32>,
    /// Whether the prompt of training examples shows the image; the released stage 1 does not.
    pub with_image: bool,
    /// The template of training examples.
    pub chat_template: ChatTemplate,
    /// Steps between saves; no part of the result.
    pub save_steps: u32,
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Objective {
    /// Direct preference optimisation.
    Dpo(Dpo),
    /// Mean negative log-likelihood over the label tokens of the global batch.
    Sft {
        /// Stage 2: the first human turn becomes this, with `{description}` and `{question}` filled in. Absent in
        /// stage 1, where the chosen response is learned under its caption prompt.
        infusion: Option<String>,
    },
}

/// Direct preference optimisation with STIC's regulariser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dpo {
    /// Of the margin.
    pub loss: DpoLoss,
    /// The strength of the reference.
    pub beta: f64,
    /// The share of flipped preferences assumed (cDPO).
    pub label_smoothing: f64,
    /// The paper's alpha: times the sum of log p(chosen), subtracted from the loss.
    pub chosen_log_prob_weight: f64,
    /// What stands for log p(rejected).
    pub rejected_term: RejectedTerm,
    /// The reference policy.
    pub reference: Reference,
    /// POVID: noise on the image of the rejected response at training time, in diffusion steps.
    pub rejected_image_noise_steps: Option<u32>,
}

/// The loss of the margin h = beta * (policy log-ratio - reference log-ratio).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DpoLoss {
    /// -log sigmoid(h); with label smoothing, cDPO.
    Sigmoid,
    /// max(0, 1 - h).
    Hinge,
    /// (h/beta - 1/(2 beta))^2.
    Ipo,
}

/// What stands for log p(rejected).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RejectedTerm {
    /// log p of the rejected tokens.
    LogProb,
    /// The released code: per token the top logit, or the second where the top is the label.
    TopLogit,
}

/// The reference policy of DPO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reference {
    /// The base model, adapter off.
    Base,
    /// A frozen copy of the adapter the run starts from.
    InitialAdapter,
}

/// A new LoRA adapter: `y = Wx + (alpha/rank) B A x`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lora {
    /// r.
    pub rank: u32,
    /// The scale is alpha/rank.
    pub alpha: f64,
    /// On the adapter's input, in training.
    pub dropout: f64,
    /// Projections of the language model.
    pub targets: Vec<LoraTarget>,
}

/// A projection of the language model that an adapter can sit on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are the names of the projections")]
pub enum LoraTarget {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl LoraTarget {
    /// In the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// As in tensor names.
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

    /// The block it is in, as in tensor names.
    #[must_use]
    pub const fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }
}

/// AdamW (0.9, 0.999, 1e-8) and its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Optimizer {
    /// The peak.
    pub learning_rate: f64,
    /// After the warm-up.
    pub schedule: Schedule,
    /// ceil(ratio * steps) steps rise linearly from 0.
    pub warmup_ratio: f64,
    /// Decoupled.
    pub weight_decay: f64,
    /// The global L2 norm gradients are scaled down to; 0 switches clipping off.
    pub max_gradient_norm: f64,
}

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// A line down to 0.
    Linear,
    /// The peak throughout.
    Constant,
}
