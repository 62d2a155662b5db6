//! The command line's arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::checkpoint::adapter::{AdapterNames, TrainedProjector};
use clap::{Parser, Subcommand, ValueEnum};
use stic_contract::evaluation::{Prompting, Scorer};
use stic_contract::recipe::{ActivationCheckpointing, ChatTemplate, OnUnreadable, Precision};

/// Generation, LoRA DPO and LoRA SFT of STIC on candle.
///
/// Exit codes: 0 success; 64 the configuration or the model cannot be used; 65 the data cannot be used; 68 the judge does
/// not answer; 74 storage failed; 75 interrupted, run the same command again to resume; 77 the judge refuses requests;
/// anything else is a bug.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one step of a run.
    Step(StepArgs),
    /// Print the log-probability of every response token under the base model, an adapter, or both.
    Score(ScoreArgs),
    /// Write a merged checkpoint, or an adapter in PEFT's format.
    Export(ExportArgs),
    /// Compare the base model with adapters on published benchmarks.
    Evaluate(EvaluateArgs),
    /// Serve the model and adapters with the chat completions API of OpenAI.
    Serve(ServeArgs),
    /// Verify an artifact's digest and print its marker.
    Inspect(InspectArgs),
    /// List the unfinished work of runs on a volume, or remove that of runs that are no longer needed.
    Unfinished(UnfinishedArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct StepArgs {
    /// The run config.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The folder that contains the volumes.
    #[arg(long, value_name = "DIR", default_value = "/volumes")]
    pub volumes: PathBuf,
    /// The index of a sharded step.
    #[arg(long, value_name = "N", default_value_t = 0, env = "JOB_COMPLETION_INDEX")]
    pub shard_index: u32,
    /// Generate this many responses at a time, whatever the run config says; 0 for as many as fit in memory. Does not
    /// change results.
    #[arg(long = "responses-at-once", value_name = "N")]
    pub batch_size: Option<usize>,
    /// Write the result to this file, such as a pod's termination message.
    #[arg(long, value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// Serve /progress and /metrics on this address while the step runs.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub serve: Option<SocketAddr>,
    /// How much of the forward pass training keeps in memory, whatever the run config says. Does not change results.
    #[arg(long, value_enum)]
    pub activation_checkpointing: Option<ActivationCheckpointingArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationCheckpointingArg {
    /// Keep all activations: fastest, most memory.
    None,
    /// Keep the input of every layer and compute each layer twice.
    EveryLayer,
    /// Keep as much as fits in memory.
    Auto,
}

impl From<ActivationCheckpointingArg> for ActivationCheckpointing {
    fn from(policy: ActivationCheckpointingArg) -> Self {
        match policy {
            ActivationCheckpointingArg::None => Self::None,
            ActivationCheckpointingArg::EveryLayer => Self::EveryLayer,
            ActivationCheckpointingArg::Auto => Self::Auto,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChatTemplateArg {
    /// The model's own template.
    Auto,
    /// [INST] ... [/INST]
    MistralInstruct,
    /// USER: ... ASSISTANT:
    VicunaV1,
}

impl From<ChatTemplateArg> for ChatTemplate {
    fn from(template: ChatTemplateArg) -> Self {
        match template {
            ChatTemplateArg::Auto => Self::Auto,
            ChatTemplateArg::MistralInstruct => Self::MistralInstruct,
            ChatTemplateArg::VicunaV1 => Self::VicunaV1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// Exact, and fast on a CPU.
    F32,
    /// Half the size. Computing in it is for GPUs: slow on a CPU.
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoredPolicy {
    /// The model without an adapter.
    Base,
    /// The model with the adapter.
    Adapter,
    Both,
}

/// What to do with an adapter of the original LLaVA whose training also changed the projector.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ProjectorArgs {
    /// Use the base model's projector even if the adapter's folder has another one, in non_lora_trainables.bin.
    #[arg(long)]
    pub ignore_trained_projector: bool,
}

impl From<ProjectorArgs> for TrainedProjector {
    fn from(args: ProjectorArgs) -> Self {
        if args.ignore_trained_projector { Self::Ignore } else { Self::Refuse }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub projector: ProjectorArgs,
    /// The policies to score; by default both if there is an adapter, base otherwise.
    #[arg(long, value_enum)]
    pub policy: Option<ScoredPolicy>,
    /// JSONL with id; prompt or prompt_ids; response or response_ids; and optionally image, a path under --images, or
    /// pixels, a file that --dump-pixels wrote, also under --images.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The folder of the images; by default that of the input.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// JSONL with id, policy, tokens, logprobs, sum, mean; by default standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The prompt template.
    #[arg(long, value_enum, default_value = "auto")]
    pub chat_template: ChatTemplateArg,
    /// The number format of weights and activations.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    /// Write pixel values and token ids to this folder, one safetensors file per input line.
    #[arg(long, value_name = "DIR")]
    pub dump_pixels: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportKind {
    /// A whole checkpoint, as transformers loads it.
    Merged,
    /// Only the adapter, in PEFT's format.
    Adapter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AdapterNamesArg {
    /// transformers 4.52 and later.
    Transformers,
    /// transformers before 4.52.
    #[value(name = "transformers-before-4.52")]
    TransformersBefore452,
    /// The original LLaVA's code.
    OriginalLlava,
}

impl From<AdapterNamesArg> for AdapterNames {
    fn from(names: AdapterNamesArg) -> Self {
        match names {
            AdapterNamesArg::Transformers => Self::Transformers,
            AdapterNamesArg::TransformersBefore452 => Self::TransformersBefore452,
            AdapterNamesArg::OriginalLlava => Self::OriginalLlava,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// What to write.
    #[arg(value_enum)]
    pub kind: ExportKind,
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    #[command(flatten)]
    pub projector: ProjectorArgs,
    /// The folder to write; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The names in an exported adapter: those of the library that will load it.
    #[arg(long, value_enum, default_value = "transformers")]
    pub names: AdapterNamesArg,
    /// The number format of a merged checkpoint. bf16 is refused if rounding would lose more than a tenth of the adapter's
    /// change.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    /// The maximum size of one weight file.
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000)]
    pub max_shard_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// A benchmark and the folder that holds it as published; may be repeated. docs/evaluation.md lists the benchmarks.
    #[arg(long = "benchmark", value_name = "NAME=DIR", required = true)]
    pub benchmarks: Vec<String>,
    /// Ask so many questions of each benchmark, chosen by their ids alone. Default: all.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// What becomes of rows that cannot be used.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_unreadable: OnUnreadableArg,
    /// Ask TextVQA with the published OCR tokens in the prompt.
    #[arg(long)]
    pub ocr_tokens: bool,
    /// The ways of asking.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,describe-and-respond")]
    pub prompting: Vec<PromptingArg>,
    /// The programs whose rules score the answers.
    #[arg(long = "scorer", value_enum, value_delimiter = ',', default_value = "llava")]
    pub scorers: Vec<ScorerArg>,
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// An adapter to compare with the base model; may be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub adapters: Vec<String>,
    /// The folder to write questions, answers and results to. An interrupted evaluation resumes from it.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The prompt template.
    #[arg(long, value_enum, default_value = "auto")]
    pub chat_template: ChatTemplateArg,
    /// The number format of weights and activations.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    /// The maximum length of a description.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_description_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnUnreadableArg {
    /// Leave them out with a warning.
    Skip,
    /// List them and end.
    Fail,
}

impl From<OnUnreadableArg> for OnUnreadable {
    fn from(on_unreadable: OnUnreadableArg) -> Self {
        match on_unreadable {
            OnUnreadableArg::Skip => Self::Skip,
            OnUnreadableArg::Fail => Self::Fail,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PromptingArg {
    /// The image and the question.
    Direct,
    /// After the model's own description of the image, which goes into the prompt. A question without an image is asked
    /// directly.
    DescribeAndRespond,
    /// As the released code of STIC does it: the description is made without the image, so it is the same for all questions.
    DescribeAndRespondAsReleased,
}

impl From<PromptingArg> for Prompting {
    fn from(prompting: PromptingArg) -> Self {
        match prompting {
            PromptingArg::Direct => Self::Direct,
            PromptingArg::DescribeAndRespond => Self::DescribeAndRespond,
            PromptingArg::DescribeAndRespondAsReleased => Self::DescribeAndRespondAsReleased,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScorerArg {
    /// LLaVA's scripts and the benchmarks' own, as in the paper.
    Llava,
    LmmsEval,
    #[value(name = "vlmevalkit")]
    VlmEvalKit,
}

impl From<ScorerArg> for Scorer {
    fn from(scorer: ScorerArg) -> Self {
        match scorer {
            ScorerArg::Llava => Self::Llava,
            ScorerArg::LmmsEval => Self::LmmsEval,
            ScorerArg::VlmEvalKit => Self::VlmEvalKit,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The model's folder, whose name is that of the base model; base is another name for it.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// An adapter to serve under a name; may be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub adapters: Vec<String>,
    /// The prompt template.
    #[arg(long, value_enum, default_value = "auto")]
    pub chat_template: ChatTemplateArg,
    /// The number format of weights and activations.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    /// The address to listen on. There are no credentials: whoever reaches it can use the model.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// How many requests may wait while others are answered. A further one is refused with 429.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_queue: usize,
    /// Generate this many responses at a time; 0 for as many as fit in memory. Does not change results.
    #[arg(long = "responses-at-once", value_name = "N", default_value_t = 0)]
    pub batch_size: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The artifact's folder.
    pub artifact: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnfinishedArgs {
    /// The output folder of the runs.
    #[arg(value_name = "DIR")]
    pub output: PathBuf,
    /// Remove this folder of the list. A folder in which a step is working is refused.
    #[arg(long, value_name = "UID-RERUN", num_args = 1..)]
    pub remove: Vec<String>,
}
