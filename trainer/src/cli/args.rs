//! What can be asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use stic_contract::recipe::ChatTemplate;

/// Generation, LoRA DPO and LoRA SFT of STIC on candle.
///
/// Exit codes: 0 done; 64 the configuration or the model cannot be used; 65 the data cannot be used; 74 storage
/// failed; 75 interrupted, run the same command again; anything else is a bug.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one step of a run, as its run config says.
    Step(StepArgs),
    /// Log-probability of every response token, under the base model, an adapter, or both.
    Score(ScoreArgs),
    /// Write a merged checkpoint, or an adapter in PEFT's names.
    Export(ExportArgs),
    /// Ask held-out questions and describe held-out scenes with several adapters, and compare.
    Evaluate(EvaluateArgs),
    /// Print what an artifact is, its digest verified.
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct StepArgs {
    /// The run config.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The folder that volumes are mounted under.
    #[arg(long, value_name = "DIR", default_value = "/volumes")]
    pub volumes: PathBuf,
    /// The index of a sharded step.
    #[arg(long, value_name = "N", default_value_t = 0, env = "JOB_COMPLETION_INDEX")]
    pub shard_index: u32,
    /// Write this many responses at once; 0 for as many as memory holds. It changes no result.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub responses_at_once: usize,
    /// Write the result there: the termination message of a pod.
    #[arg(long, value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// Serve progress there over HTTP while the step runs: /progress and /metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub serve: Option<SocketAddr>,
    /// What training keeps in memory of the forward pass. Changes no result.
    #[arg(long, value_enum, default_value = "auto")]
    pub activation_checkpointing: ActivationCheckpointing,
}

/// What is kept of the forward pass for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationCheckpointing {
    /// All: the fastest, and the largest.
    None,
    /// The input of every layer: each is computed twice.
    EveryLayer,
    /// As much as there is memory for.
    Auto,
}

impl From<ActivationCheckpointing>
    for stic_trainer::training::activation_checkpointing::ActivationCheckpointing
{
    fn from(policy: ActivationCheckpointing) -> Self {
        match policy {
            ActivationCheckpointing::None => Self::None,
            ActivationCheckpointing::EveryLayer => Self::EveryLayer,
            ActivationCheckpointing::Auto => Self::Auto,
        }
    }
}

/// How the model's prompts are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// The model's own.
    Auto,
    /// [INST] ... [/INST]
    MistralInstruct,
    /// USER: ... ASSISTANT:
    VicunaV1,
}

impl From<Template> for ChatTemplate {
    fn from(template: Template) -> Self {
        match template {
            Template::Auto => Self::Auto,
            Template::MistralInstruct => Self::MistralInstruct,
            Template::VicunaV1 => Self::VicunaV1,
        }
    }
}

/// Which policies to score under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// The model without an adapter.
    Base,
    /// The model with the adapter.
    Adapter,
    /// Each in turn.
    Both,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// An adapter's folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Under which policies; both where an adapter is given, base otherwise.
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// JSONL: id; prompt or prompt_ids; response or response_ids; and image, a path under --images, or pixels, a file of
    /// --dump-pixels under --images, where there is one.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The folder images are in; that of the input where it is left out.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// JSONL: id, policy, tokens, logprobs, sum, mean; stdout where it is left out.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How prompts are wrapped.
    #[arg(long, value_enum, default_value = "auto")]
    pub chat_template: Template,
    /// Write the pixel values and the token ids of every row there, one safetensors file a row.
    #[arg(long, value_name = "DIR")]
    pub dump_pixels: Option<PathBuf>,
}

/// What to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportKind {
    /// A whole checkpoint, as transformers loads it.
    Merged,
    /// The adapter alone, in PEFT's names: from any names that --adapter is in.
    Adapter,
}

/// The number format of a merged checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportPrecision {
    /// Nothing of the adapter is lost.
    F32,
    /// Refused where rounding would lose more than a tenth of what the adapter changes.
    Bf16,
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
    /// The folder to write; it must not be there, or be empty.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The number format of merged weights.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: ExportPrecision,
    /// The most bytes of one file of weights.
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000)]
    pub max_shard_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// An adapter to compare with the base, under a name; may be given several times.
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub adapters: Vec<String>,
    /// JSONL: id, image, question, answer.
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,
    /// JSONL: id, image, phrases.
    #[arg(long, value_name = "FILE")]
    pub scenes: PathBuf,
    /// The folder images are in.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Write every answer there, with the table as JSON; an interrupted evaluation goes on from it.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// How prompts are wrapped.
    #[arg(long, value_enum, default_value = "auto")]
    pub chat_template: Template,
    /// The most tokens of a description.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_description_tokens: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The artifact's folder.
    pub artifact: PathBuf,
}
