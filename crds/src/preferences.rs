//! Stage 1's data: a chosen and a rejected response per image.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::prompts;
use stic_contract::recipe::{Negatives, PreferenceSource};

use crate::cel::{self, rule, rule_at};
use crate::choices;
use crate::decimal::Decimal;
use crate::volumes::VolumeFile;

/// How preference pairs are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// `has` also of fields that have a default: the API server tries the rules on the default `{}` of this object, before
// the defaults inside are filled in, and refuses the definition if one cannot be evaluated.
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".pairs", "has(self.pairs) == (has(self.source) && self.source == 'File')",
        "pairs names the file of source File: set both, or neither"),
    rule_at(".instructions", "has(self.instructions) == (has(self.source) && self.source == 'Instructions')",
        "instructions names the file of source Instructions: set both, or neither"),
    rule_at(".corruptedShare", "!has(self.corruptedShare) || self.negatives == 'Both'",
        "corruptedShare divides the negatives Both: leave it out, or set negatives to Both"),
    rule_at(".corruptions",
        "!has(self.source) || self.source != 'Generate' || !(self.negatives in ['Both', 'ImagesOnly']) || self.corruptions.exists(c, !has(c.at) || c.at == 'Generation')",
        "negatives from corrupted images need a corruption at Generation: add one, or set negatives to PromptsOnly"),
    rule_at(".corruptions", "!has(self.corruptions) || self.corruptions.filter(c, has(c.at) && c.at == 'Training').size() <= 1",
        "at most one corruption can act at Training: leave one"),
]))]
pub struct Preferences {
    /// Where pairs come from: Generate lets the model write both responses; File reads pairs made elsewhere;
    /// Instructions takes ground truth as chosen and the model's own answer as rejected, as SPIN does.
    #[serde(default = "source")]
    #[schemars(schema_with = "choices::preference_source")]
    pub source: PreferenceSource,
    /// The file of source File: JSON lines of id, image, prompt, chosen and rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<VolumeFile>,
    /// The file of source Instructions: LLaVA's conversation JSON or JSONL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<VolumeFile>,
    /// Where rejected responses come from: hallucination prompts, corrupted images, or Both. With None there are
    /// none, and training.method is SFT on the chosen responses.
    #[serde(default = "negatives")]
    #[schemars(schema_with = "choices::negatives")]
    pub negatives: Negatives,
    /// With negatives Both, the share of rejected responses that come from a corrupted image. Absent means the
    /// profile's: 0.5 in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub corrupted_share: Option<Decimal>,
    /// One is drawn per image; the pair is trained under it.
    #[serde(default = "caption_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub caption_prompts: Vec<String>,
    /// The prompt of chosen responses.
    #[serde(default = "well_curated_prompt")]
    #[schemars(length(min = 1, max = 2048))]
    pub well_curated_prompt: String,
    /// One is drawn per rejected response that comes from a prompt.
    #[serde(default = "hallucination_prompts")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 2048)))]
    pub hallucination_prompts: Vec<String>,
    /// One is drawn, by weight, per corrupted image. The profile OfficialCompat corrupts no image.
    #[serde(default = "corruptions")]
    #[schemars(length(max = 16))]
    pub corruptions: Vec<Corruption>,
    /// How responses are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// How many pods share the generation. It changes no result.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u32,
}

/// What is done to an image before the model describes it wrongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.shortSide) == (self.kind == 'LowResolution')",
        "shortSide belongs to kind LowResolution, which needs it: the paper's is 20"),
    rule("has(self.brightness) == (self.kind == 'ColorJitter') && has(self.hue) == (self.kind == 'ColorJitter')",
        "brightness and hue belong to kind ColorJitter, which needs both: the paper's are \"0.5\" and \"0.3\""),
    rule("has(self.steps) == (self.kind == 'GaussianNoise')",
        "steps belongs to kind GaussianNoise, which needs it: POVID's is 500"),
    rule("!has(self.at) || self.at == 'Generation' || self.kind == 'GaussianNoise'",
        "only kind GaussianNoise can act at Training: set at to Generation"),
]))]
pub struct Corruption {
    /// LowResolution resizes so that the shorter side is shortSide pixels; ColorJitter changes brightness and hue;
    /// GaussianNoise adds diffusion noise.
    pub kind: CorruptionKind,
    /// How often it is drawn, relative to the sum of all weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// When it acts: on the image that is described, or, with Training, on the image of rejected responses in
    /// training, as POVID's noise. Absent means Generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<CorruptionTime>,
    /// LowResolution: pixels of the shorter side.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub short_side: Option<u32>,
    /// ColorJitter: brightness is multiplied by a factor between 1 - b and 1 + b.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::share()))]
    pub brightness: Option<Decimal>,
    /// ColorJitter: hue is shifted by up to this share of the colour circle.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = cel::up_to_half()))]
    pub hue: Option<Decimal>,
    /// GaussianNoise: noise after this many of 1,000 diffusion steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999))]
    pub steps: Option<u32>,
}

/// A kind of corruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "`Corruption::kind` says what they do")]
pub enum CorruptionKind {
    LowResolution,
    ColorJitter,
    GaussianNoise,
}

/// When a corruption acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "`Corruption::at` says what they mean")]
pub enum CorruptionTime {
    Generation,
    Training,
}

/// How responses are drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// Divides the logits. 0 takes the likeliest token each time.
    #[serde(default = "temperature")]
    #[schemars(extend("x-kubernetes-validations" = cel::not_negative()))]
    pub temperature: Decimal,
    /// Draws from the smallest set of tokens whose probabilities reach this sum. 1 leaves none out.
    #[serde(default = "top_p")]
    #[schemars(extend("x-kubernetes-validations" = cel::positive_share()))]
    pub top_p: Decimal,
    /// Draws from this many likeliest tokens. 0 leaves none out.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub top_k: u32,
    /// A response ends here at the latest.
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
