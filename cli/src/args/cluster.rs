//! What can be asked about runs on a cluster.

use std::path::PathBuf;

use clap::ValueEnum;
use stic_contract::StepName;

use super::run;

/// Kind and name of a run.
pub(crate) type RunName = (&'static str, String);

/// The cluster, as kubectl finds it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Connection {
    /// The kubeconfig. Default: that of $KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it. Default: its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace. Default: that of the context.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// Show runs on a cluster: a table of all of them, or one as a tree of its steps, Jobs, pods and artifacts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic get
  kubectl stic get s1/scenes
  kubectl stic get s1/scenes -o json")]
pub(crate) struct GetArgs {
    /// The run, as KIND/NAME. Default: all of the namespace.
    #[arg(value_name = "KIND/NAME", value_parser = run)]
    pub run: Option<RunName>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["run", "namespace"])]
    pub all_namespaces: bool,
    /// How to print it. As JSON, one run comes with its whole Jobs and pods, and all runs as a List.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub connection: Connection,
}

/// How to print what is on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Print what the pods of a run's current step say, or of its last one.
///
/// Of each shard it is the last pod that speaks. With -f the pods of later steps, and those that replace others, are
/// followed as they start, until the run is over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic logs s1/scenes -f
  kubectl stic logs s1/scenes --step generate --shard 2
  kubectl stic logs s1/scenes --previous")]
pub(crate) struct LogsArgs {
    /// The run, as KIND/NAME.
    #[arg(value_name = "KIND/NAME", value_parser = run)]
    pub run: RunName,
    /// Go on until the run is over, or with --step the step.
    #[arg(short, long)]
    pub follow: bool,
    /// The step: prepare, generate, describe or train.
    #[arg(long, value_parser = step)]
    pub step: Option<StepName>,
    /// The shard of a step that several pods share, from 0.
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// The pod before the last one of each shard.
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// A run to hold or to let go on.
#[derive(Debug, clap::Args)]
pub(crate) struct SteerArgs {
    /// The run, as KIND/NAME.
    #[arg(value_name = "KIND/NAME", value_parser = run)]
    pub run: RunName,
    #[command(flatten)]
    pub connection: Connection,
}

/// Run a finished run on a cluster again. It uses nothing that it has made before.
#[derive(Debug, clap::Args)]
pub(crate) struct RerunArgs {
    /// The run, as KIND/NAME.
    #[arg(value_name = "KIND/NAME", value_parser = run)]
    pub run: RunName,
    /// Also where it is not over: what it has not finished is lost.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// Print the claims, ConfigMaps with run configs, and Jobs that the controller makes of manifests. No cluster is asked.
///
/// What only a cluster or an earlier step can know stands in angle brackets: digests, names of artifacts, the image.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic render -f examples/quickstart/stage-one.yaml
  kubectl stic render -f runs/ --step train")]
pub(crate) struct RenderArgs {
    /// A manifest, a folder of manifests (*.yaml, *.yml, *.json), or - for standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Only this step: prepare, generate, describe or train.
    #[arg(long, value_parser = step)]
    pub step: Option<StepName>,
    /// The operator's trainer image, for pods that name none.
    #[arg(long, value_name = "IMAGE")]
    pub trainer_image: Option<String>,
    /// The namespace of manifests that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

fn step(text: &str) -> Result<StepName, String> {
    [StepName::Prepare, StepName::Generate, StepName::Describe, StepName::Train]
        .into_iter()
        .find(|step| step.as_str() == text)
        .ok_or_else(|| "write prepare, generate, describe or train".into())
}
