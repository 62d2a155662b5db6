//! `EvaluationRun`: models answer the questions of published benchmarks, and are compared.

use std::num::NonZeroU32;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};
use stic_contract::recipe::{ChatTemplate, OnUnreadable};

use crate::cel;
use crate::choices;
use crate::lifecycle::{Backoff, Retention};
use crate::model::{ModelSource, SecretKey};
use crate::pod::EvaluationPod;
use crate::stage_two::{ModelAdapter, RunReference};
use crate::status::RunStatus;
use crate::training::Precision;
use crate::volumes::{Output, VolumeFolder};

/// Models answer the questions of published benchmarks. Each is scored, and compared with the first one on the same
/// questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "stic.dev",
    version = "v1alpha1",
    kind = "EvaluationRun",
    plural = "evaluationruns",
    shortname = "ev",
    category = "stic",
    namespaced,
    status = "RunStatus",
    derive = "PartialEq",
    doc = "Scores of models on published benchmarks, and their differences with intervals.",
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.display.phase"}"#,
    printcolumn = r#"{"name": "Progress", "type": "string", "jsonPath": ".status.display.progress"}"#,
    printcolumn = r#"{"name": "Questions", "type": "string", "jsonPath": ".status.display.items"}"#,
    printcolumn = r#"{"name": "Score", "type": "string", "jsonPath": ".status.display.score"}"#,
    printcolumn = r#"{"name": "Difference", "type": "string", "jsonPath": ".status.display.difference"}"#,
    printcolumn = r#"{"name": "ETA", "type": "string", "jsonPath": ".status.display.eta"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationRunSpec {
    /// The models to evaluate. The first one is the baseline of every difference.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub subjects: Vec<Subject>,
    /// The benchmarks whose questions the models answer.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub benchmarks: Vec<Benchmark>,
    /// How each question is asked: Direct shows the image and the question; DescribeAndRespond lets the model describe the
    /// image first, and its description goes into the prompt; with DescribeAndRespondAsReleased it describes without the
    /// image, as the released code does.
    #[serde(default = "prompting")]
    #[schemars(schema_with = "choices::prompting")]
    pub prompting: Vec<Prompting>,
    /// The template that wraps a question; Auto is the model's own. The numbers of the paper depend on it: they were made
    /// with VicunaV1, also those of the Mistral model.
    #[schemars(schema_with = "choices::chat_template")]
    pub chat_template: ChatTemplate,
    /// How images are described.
    #[serde(default)]
    pub description: EvaluationDescription,
    /// Whose rules say what an answer is worth: LLaVA's scripts, which the paper used, LmmsEval or VLMEvalKit. The same
    /// answers are scored by each.
    #[serde(default = "scorers")]
    #[schemars(schema_with = "choices::scorers")]
    pub scorers: Vec<Scorer>,
    /// The judge of answers that no rule can score. Absent means that they have no score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// What happens to a question that cannot be used, because its row is malformed, its image is missing or broken, or it
    /// is too long for a model: Skip leaves it out and records it in skipped.jsonl; Fail fails the run with a list of such
    /// questions.
    #[serde(default = "fail")]
    #[schemars(schema_with = "choices::on_unreadable")]
    pub on_unreadable: OnUnreadable,
    /// The number format of weights and activations. Auto is BF16 if the pods of the step answer request GPUs, and F32
    /// otherwise. status.resolved says what Auto became, and why.
    #[serde(default)]
    pub precision: Precision,
    /// The number of pods that share the questions. It does not affect the result.
    #[serde(default = "crate::preferences::one")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u32,
    /// The number of answers that a device generates at a time. Absent means as many as its memory has room for. It does
    /// not affect the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: Option<NonZeroU32>,
    /// The volume for answers and results. Runs on one volume share answers: what one run asked a model, another one does
    /// not ask again.
    pub output: Output,
    /// Settings of the pods that run the steps.
    #[serde(default)]
    // Boxed because it is most of the spec, of which a stream of runs has dozens of copies on its stack.
    pub pod: Box<EvaluationPod>,
    /// The retry policy for failed steps.
    #[serde(default)]
    pub backoff: Backoff,
    /// The maximum duration of the run in seconds, not counting the time in which it is suspended, queued, or waits for
    /// other runs. The run fails when it is exceeded. Absent means no limit.
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
    /// Raise this number to run again from scratch. A rerun does not reuse earlier answers.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rerun: u32,
    /// Raise this number to continue a failed run with everything that is on disk: finished steps and answers are not
    /// made again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub retry: u32,
}

/// A model to evaluate. Exactly one of model, adapter, stageOneRunRef and stageTwoRunRef must be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["model", "adapter", "stageOneRunRef", "stageTwoRunRef"])))]
pub struct Subject {
    /// Its name in the results.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$"))]
    pub name: String,
    /// A base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// An existing adapter and its base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<ModelAdapter>,
    /// A StageOneRun, whose model and adapter are evaluated. This run waits until that one has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_one_run_ref: Option<RunReference>,
    /// A StageTwoRun, whose model and adapter are evaluated. This run waits until that one has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_two_run_ref: Option<RunReference>,
}

/// A benchmark, and which of its questions are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Benchmark {
    /// The benchmark.
    #[schemars(schema_with = "choices::benchmark")]
    pub name: BenchmarkName,
    /// Its files as they are published.
    pub data: BenchmarkData,
    /// The number of questions to ask. Their ids alone decide which, and a smaller limit selects a subset of a larger one.
    /// Absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub limit: Option<u64>,
    /// Whether the prompt lists the OCR tokens that are published with TextVQA. Other benchmarks have none.
    #[serde(default)]
    pub ocr_tokens: bool,
}

/// The files of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkData {
    /// The folder with the files: a clone of the Hugging Face dataset, VLMEvalKit's TSV, or the authors' files.
    pub volume: VolumeFolder,
}

/// How images are described where a description goes into the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationDescription {
    /// The maximum length of a description in tokens.
    #[serde(default = "description_tokens")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_new_tokens: u32,
}

/// A model behind an API that scores answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Judge {
    /// The base URL of an API that is compatible with OpenAI's, to which /chat/completions is appended.
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = cel::text(
        "^https?://[^ ?#]+$",
        "must be a URL that starts with http:// or https://, such as https://judge.example.com/v1",
    )))]
    pub url: String,
    /// The model that judges, as the API names it.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// The ConfigMap with the judge's prompts, one key for each judged benchmark, named after it.
    pub prompts_config_map_ref: ConfigMapReference,
    /// The key of a Secret with the key of the API. Only the pod of the step judge has it. Absent means that none is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKey>,
    /// The most requests that are sent in a minute. Absent means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// The most requests that the run sends in all. If they are used up, the run fails and keeps what it has; raise this and
    /// spec.retry to continue from there. Absent means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub max_requests: Option<u64>,
    /// How often each answer is judged. Its score is the mean.
    #[serde(default = "crate::preferences::one")]
    #[schemars(range(min = 1, max = 16))]
    pub repeats: u32,
}

/// A ConfigMap in the run's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapReference {
    /// The name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl Default for EvaluationDescription {
    fn default() -> Self {
        Self { max_new_tokens: description_tokens() }
    }
}

fn prompting() -> Vec<Prompting> {
    vec![Prompting::Direct, Prompting::DescribeAndRespond]
}

fn scorers() -> Vec<Scorer> {
    vec![Scorer::Llava]
}

const fn description_tokens() -> u32 {
    1024
}

const fn fail() -> OnUnreadable {
    OnUnreadable::Fail
}
