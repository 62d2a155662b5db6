//! What an evaluation asks, whom, and by whose rules the answers are scored.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::artifact::{AdapterLocation, ArtifactRef};
use crate::digest::Digest;
use crate::enumerated::enumerated;
use crate::identity::VolumePath;
use crate::recipe::{ChatTemplate, OnUnreadable, Precision};

/// The folder of the benchmarks' images that runs on one volume share, under the output path.
pub const IMAGES_DIR: &str = "images";
/// The folder of the answers that runs on one volume share, under the output path.
pub const ANSWERS_DIR: &str = "answers";
/// The folder of the judge's replies that runs on one volume share, under the output path.
pub const JUDGEMENTS_DIR: &str = "judgements";
/// The volume with the user's prompts for the judge, one file for each benchmark, named after it.
pub const JUDGE_PROMPTS: &str = "judge-prompts";
/// The environment variable with the key of the judge's API: a secret, so it is in no run config.
pub const JUDGE_API_KEY: &str = "STIC_JUDGE_API_KEY";

enumerated! {
    /// The benchmarks that can be evaluated, in the order in which results are reported.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[expect(missing_docs, reason = "they are names")]
    pub enum BenchmarkName {
        #[serde(rename = "ScienceQA")]
        ScienceQa,
        #[serde(rename = "TextVQA")]
        TextVqa,
        #[serde(rename = "ChartQA")]
        ChartQa,
        #[serde(rename = "LLaVABench")]
        LlavaBench,
        #[serde(rename = "MMBench")]
        MmBench,
        #[serde(rename = "MMVet")]
        MmVet,
        MathVista,
        #[serde(rename = "POPE")]
        Pope,
        #[serde(rename = "MMStar")]
        MmStar,
        HallusionBench,
        #[serde(rename = "AMBER")]
        Amber,
        #[serde(rename = "CHAIR")]
        Chair,
        /// Questions about the quickstart's scenes.
        Scenes,
    }
}

impl BenchmarkName {
    /// The name in manifests and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ScienceQa => "ScienceQA",
            Self::TextVqa => "TextVQA",
            Self::ChartQa => "ChartQA",
            Self::LlavaBench => "LLaVABench",
            Self::MmBench => "MMBench",
            Self::MmVet => "MMVet",
            Self::MathVista => "MathVista",
            Self::Pope => "POPE",
            Self::MmStar => "MMStar",
            Self::HallusionBench => "HallusionBench",
            Self::Amber => "AMBER",
            Self::Chair => "CHAIR",
            Self::Scenes => "Scenes",
        }
    }
}

impl fmt::Display for BenchmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

enumerated! {
    /// A way of asking a question.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum Prompting {
        /// The image and the question.
        Direct,
        /// After the model's own description of the image, which goes into the prompt. A question without an image is asked
        /// directly.
        DescribeAndRespond,
        /// As the released code of STIC does it: the description is made without the image, so it is the same for all questions.
        DescribeAndRespondAsReleased,
    }
}

impl Prompting {
    /// The name in manifests and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "Direct",
            Self::DescribeAndRespond => "DescribeAndRespond",
            Self::DescribeAndRespondAsReleased => "DescribeAndRespondAsReleased",
        }
    }
}

enumerated! {
    /// The program whose rules an answer is scored by. Published numbers differ by it: one answer, up to three scores, each
    /// comparable with its own leaderboard.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum Scorer {
        /// LLaVA's own scripts and, where those defer to them, the benchmark's: what the paper used.
        #[serde(rename = "LLaVA")]
        Llava,
        /// lmms-eval 0.7.
        LmmsEval,
        /// VLMEvalKit, where no judge is asked.
        #[serde(rename = "VLMEvalKit")]
        VlmEvalKit,
    }
}

impl Scorer {
    /// The name in manifests and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Llava => "LLaVA",
            Self::LmmsEval => "LmmsEval",
            Self::VlmEvalKit => "VLMEvalKit",
        }
    }
}

/// A benchmark, and which of its questions are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BenchmarkInput {
    /// The benchmark.
    pub name: BenchmarkName,
    /// The folder with its files as they are published.
    pub location: VolumePath,
    /// The number of questions to ask, chosen by their ids alone. Absent means all.
    pub limit: Option<u64>,
    /// TextVQA: whether the prompt lists the published OCR tokens.
    pub ocr_tokens: bool,
}

/// A model to evaluate, before `prepare` has digested it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectLocation {
    /// The user's name for it.
    pub name: String,
    /// The folder of the base model.
    pub model: VolumePath,
    /// The digest that the base model must have, if another run recorded it.
    pub model_digest: Option<Digest>,
    /// The adapter on it. Absent for the base model itself.
    pub adapter: Option<AdapterLocation>,
}

/// A model to evaluate, verified by its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// The user's name for it.
    pub name: String,
    /// The base model.
    pub model: ArtifactRef,
    /// The adapter on it.
    pub adapter: Option<ArtifactRef>,
}

/// How the questions are asked. With the models and the questions it decides every answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AskingRecipe {
    /// The ways in which each question is asked.
    pub prompting: Vec<Prompting>,
    /// The template that wraps a prompt.
    pub chat_template: ChatTemplate,
    /// The maximum length of a description, in tokens.
    pub max_description_tokens: u32,
    /// The number format of weights and activations.
    pub precision: Precision,
}

/// Settings of `prepare` of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareEvaluation {
    /// The models to evaluate, the baseline first.
    pub subjects: Vec<SubjectLocation>,
    /// The benchmarks.
    pub benchmarks: Vec<BenchmarkInput>,
    /// How the questions are asked.
    pub recipe: AskingRecipe,
    /// By whose rules the answers are scored.
    pub scorers: Vec<Scorer>,
    /// Whether a judge is asked. Without one, some benchmarks have no score, which `prepare` reports.
    pub has_judge: bool,
    /// Whether a row that cannot be used is left out or fails the step.
    pub on_unreadable: OnUnreadable,
    /// Whether a later step computes in bf16 without a GPU, which is slow.
    pub bf16_on_cpu: bool,
    /// Whether a later step uses a GPU, whose memory `prepare` then estimates.
    pub uses_gpu: bool,
}

/// Settings of `answer`: every subject is asked every question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    /// The artifact of `prepare`.
    pub questions: ArtifactRef,
    /// The models, the baseline first.
    pub subjects: Vec<Subject>,
    /// How the questions are asked.
    pub recipe: AskingRecipe,
    /// The number of shards that share the questions. It does not affect the result.
    pub shards: u32,
    /// How many responses are generated at a time. Absent means as many as memory has room for. It does not affect the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<NonZeroU32>,
}

/// Settings of `judge`: a model behind an API scores the answers that no rule can score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Judge {
    /// The artifact of `prepare`.
    pub questions: ArtifactRef,
    /// The models whose answers are judged.
    pub subjects: Vec<Subject>,
    /// How the questions were asked.
    pub recipe: AskingRecipe,
    /// Who judges.
    pub endpoint: JudgeEndpoint,
    /// The folder with the user's prompts, one file for each judged benchmark, named after it.
    pub prompts: VolumePath,
}

/// A model behind OpenAI's chat completions API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeEndpoint {
    /// The URL that `/chat/completions` is appended to.
    pub url: String,
    /// The model.
    pub model: String,
    /// Whether the key in [`JUDGE_API_KEY`] is sent.
    pub has_api_key: bool,
    /// How often each answer is judged. The score is the mean.
    pub repeats: u32,
    /// The most requests that are sent in a minute. Absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// The most requests that the run sends in all. Absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
}

/// Settings of `score`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Score {
    /// The artifact of `prepare`.
    pub questions: ArtifactRef,
    /// The models, the baseline first.
    pub subjects: Vec<Subject>,
    /// How the questions were asked.
    pub recipe: AskingRecipe,
    /// By whose rules the answers are scored.
    pub scorers: Vec<Scorer>,
    /// The artifact of `judge`, if there is one.
    pub judgements: Option<ArtifactRef>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_serialize_to() {
        for name in BenchmarkName::ALL {
            assert_eq!(serde_json::to_value(name).expect("a string"), name.as_str());
        }
        for prompting in Prompting::ALL {
            assert_eq!(serde_json::to_value(prompting).expect("a string"), prompting.as_str());
        }
        for scorer in Scorer::ALL {
            assert_eq!(serde_json::to_value(scorer).expect("a string"), scorer.as_str());
        }
    }
}
