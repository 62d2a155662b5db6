//! The preferences section of stage 1: how a chosen and a rejected response per image are generated.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::prompts;
use stic_contract::recipe::{Negatives, PreferenceSource};

use crate::cel::{self, rule, rule_at};
use crate::choices;
use crate::decimal::Decimal;
use crate::volumes::VolumeFile;

/// How preference pairs are generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// The rules use `has` even for fields with a default: the API server evaluates them on the default `{}` of this object
// before it fills in the defaults inside, and refuses the definition if one cannot be evaluated.
/// How preference pairs are generated.
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".pairs", "has(self.pairs) || !(has(self.source) && self.source == 'File')",
        "source: File requires preferences.pairs: name the file of the pairs, or set source to Generate"),
    rule_at(".pairs", "!has(self.pairs) || (has(self.source) && self.source == 'File')",
        "preferences.pairs requires source: File: set it, or remove pairs"),
    rule_at(".instructions", "has(self.instructions) || !(has(self.source) && self.source == 'Instructions')",
        "source: Instructions requires preferences.instructions: name the file of the instructions, or set source to Generate"),
    rule_at(".instructions", "!has(self.instructions) || (has(self.source) && self.source == 'Instructions')",
        "preferences.instructions requires source: Instructions: set it, or remove instructions"),
    rule_at(".corruptedShare", "!has(self.corruptedShare) || self.negatives == 'Both'",
        "corruptedShare is only allowed with negatives Both: remove it or set negatives to Both"),
    rule_at(".corruptions",
        "!has(self.source) || self.source != 'Generate' || !(self.negatives in ['Both', 'ImagesOnly']) || self.corruptions.exists(c, !has(c.at) || c.at == 'Generation')",
        "negatives from corrupted images need at least one corruption at Generation: add one or set negatives to PromptsOnly"),
    rule_at(".corruptions", "!has(self.corruptions) || self.corruptions.filter(c, has(c.at) && c.at == 'Training').size() <= 1",
        "only one corruption can be applied at Training: remove the others"),
]))]
pub struct Preferences {
    /// Where pairs come from: Generate has the model generate both responses; File reads existing pairs; Instructions
    /// takes the ground truth of instructions as chosen and the model's own answer as rejected, as in SPIN.
    #[serde(default = "source")]
    #[schemars(schema_with = "choices::preference_source")]
    pub source: PreferenceSource,
    /// The file of source File: JSON or JSON Lines with id, image, prompt, chosen and rejected, or as STIC's released
    /// code writes it. Must be absent for other sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<VolumeFile>,
    /// The file of source Instructions, in LLaVA's JSON or JSONL format. Must be absent for other sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<VolumeFile>,
    /// Where rejected responses come from: hallucination prompts (PromptsOnly), corrupted images (ImagesOnly), or
    /// Both. None generates no rejected responses, and requires training.method SFT.
    #[serde(default = "negatives")]
    #[schemars(schema_with = "choices::negatives")]
    pub negatives: Negatives,
    /// The share of rejected responses that come from corrupted images, from 0 to 1. Only allowed with negatives
    /// Both. Absent means 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub corrupted_share: Option<Decimal>,
    /// The prompts for training. One is drawn per image. Defaults to the eight prompts of the paper.
    #[serde(default = "caption_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub caption_prompts: Vec<String>,
    /// The prompt for chosen responses. Defaults to the prompt of the paper.
    #[serde(default = "well_curated_prompt")]
    #[schemars(length(min = 1, max = 2048))]
    pub well_curated_prompt: String,
    /// The prompts for rejected responses on clean images. One is drawn per response. Defaults to the eight prompts
    /// of the paper.
    #[serde(default = "hallucination_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub hallucination_prompts: Vec<String>,
    /// The corruptions of images. One is drawn per corrupted image, by weight. Defaults to LowResolution and
    /// ColorJitter as in the paper. Profile OfficialCompat ignores those applied at Generation.
    #[serde(default = "corruptions")]
    #[schemars(length(max = 16))]
    pub corruptions: Vec<Corruption>,
    /// How responses are sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// The number of pods that share the generation. It does not affect the result.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u32,
    /// The number of responses that a device generates at a time. Absent means as many as its memory has room for. It does
    /// not affect the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: Option<NonZeroU32>,
}

/// A change to an image that makes it harder to describe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.shortSide) == (self.kind == 'LowResolution')",
        "shortSide is required with kind LowResolution and not allowed with other kinds (the paper uses 20)"),
    rule("has(self.brightness) == (self.kind == 'ColorJitter') && has(self.hue) == (self.kind == 'ColorJitter')",
        "brightness and hue are required with kind ColorJitter and not allowed with other kinds (the paper uses \"0.5\" and \"0.3\")"),
    rule("has(self.steps) == (self.kind == 'GaussianNoise')",
        "steps is required with kind GaussianNoise and not allowed with other kinds (POVID uses 500)"),
    rule("!has(self.at) || self.at == 'Generation' || self.kind == 'GaussianNoise'",
        "only kind GaussianNoise can be applied at Training: set at to Generation or change kind"),
]))]
pub struct Corruption {
    /// The kind of corruption: LowResolution scales the image down; ColorJitter changes brightness and hue;
    /// GaussianNoise adds diffusion noise.
    pub kind: CorruptionKind,
    /// How often this corruption is drawn, relative to the sum of all weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// When the corruption is applied: Generation applies it to the image that the model describes; Training applies
    /// it to the image of rejected responses during training, as in POVID. Only GaussianNoise supports Training.
    /// Absent means Generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<CorruptionTime>,
    /// The length of the shorter side after scaling, in pixels. Required for LowResolution, must be absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub short_side: Option<u32>,
    /// The strength b of the change of brightness, from 0 to 1: it is multiplied by a factor between 1 - b and 1 + b.
    /// Required for ColorJitter, must be absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub brightness: Option<Decimal>,
    /// The maximum shift of the hue, as a share of the colour circle from 0 to 0.5. Required for ColorJitter, must be
    /// absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::up_to_half()))]
    pub hue: Option<Decimal>,
    /// The number of diffusion steps, of 1000, after which the noise is taken. Required for GaussianNoise, must be
    /// absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999))]
    pub steps: Option<u32>,
}

/// A kind of corruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "documented at `Corruption::kind`")]
pub enum CorruptionKind {
    LowResolution,
    ColorJitter,
    GaussianNoise,
}

/// When a corruption is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "documented at `Corruption::at`")]
pub enum CorruptionTime {
    Generation,
    Training,
}

/// How tokens are sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// The sampling temperature. 0 means greedy decoding.
    #[serde(default = "temperature")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub temperature: Decimal,
    /// Nucleus sampling: samples from the smallest set of tokens whose probabilities add up to at least this value. 1
    /// keeps all tokens.
    #[serde(default = "top_p")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive_share()))]
    pub top_p: Decimal,
    /// The number of most likely tokens to sample from. 0 keeps all tokens.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub top_k: u32,
    /// The maximum length of a response, in tokens.
    #[serde(default = "max_new_tokens")]
    #[schemars(range(min = 1, max = 32_768))]
    pub max_new_tokens: u32,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            source: source(),
            pairs: None,
            instructions: None,
            negatives: negatives(),
            corrupted_share: None,
            caption_prompts: caption_prompts(),
            well_curated_prompt: well_curated_prompt(),
            hallucination_prompts: hallucination_prompts(),
            corruptions: corruptions(),
            sampling: Sampling::default(),
            shards: one(),
            batch_size: None,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: temperature(), top_p: top_p(), top_k: 0, max_new_tokens: max_new_tokens() }
    }
}

const fn source() -> PreferenceSource {
    PreferenceSource::Generate
}

const fn negatives() -> Negatives {
    Negatives::Both
}

pub(crate) fn caption_prompts() -> Vec<String> {
    prompts::CAPTION.map(Into::into).to_vec()
}

fn well_curated_prompt() -> String {
    prompts::WELL_CURATED.into()
}

fn hallucination_prompts() -> Vec<String> {
    prompts::HALLUCINATION.map(Into::into).to_vec()
}

fn corruptions() -> Vec<Corruption> {
    let none = Corruption {
        kind: CorruptionKind::LowResolution,
        weight: one(),
        at: None,
        short_side: None,
        brightness: None,
        hue: None,
        steps: None,
    };
    vec![
        Corruption { short_side: Some(20), ..none.clone() },
        Corruption {
            kind: CorruptionKind::ColorJitter,
            brightness: Some(Decimal::new("0.5")),
            hue: Some(Decimal::new("0.3")),
            ..none
        },
    ]
}

pub(crate) const fn one() -> u32 {
    1
}

fn temperature() -> Decimal {
    Decimal::new("0.2")
}

fn top_p() -> Decimal {
    Decimal::new("1")
}

const fn max_new_tokens() -> u32 {
    1024
}
