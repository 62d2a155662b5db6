//! The commands that work with runs on a cluster, and `render`.

use std::path::PathBuf;

use clap::ValueEnum;
use stic_contract::StepName;

use super::values;
use crate::run_name::RunName;

/// How to connect to the cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Connection {
    /// The kubeconfig file [default: $KUBECONFIG, otherwise ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig [default: its current context]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace [default: the namespace of the context]
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// Show the runs on a cluster as a table, or one run as a tree of its steps, Jobs, pods and artifacts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic get
  kubectl stic get s1/scenes
  kubectl stic get s1/scenes -o json")]
pub(crate) struct GetArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev [default: all runs of the namespace]
    #[arg(value_name = "KIND/NAME")]
    pub run: Option<RunName>,
    /// Show the runs of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["run", "namespace"])]
    pub all_namespaces: bool,
    /// How to print the runs; JSON of one run includes its Jobs and pods, and JSON of all runs is a List
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub connection: Connection,
}

/// How to print runs on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table or a tree for people
    Table,
    /// JSON for programs
    Json,
}

/// Print the logs of a run's current step, or of its last step if the run has finished
///
/// Of each shard, the log of the latest pod is printed. With -f, the logs of pods that start later are followed too, until
/// the run has finished.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic logs s1/scenes -f
  kubectl stic logs s1/scenes --step generate --shard 2
  kubectl stic logs s1/scenes --previous")]
pub(crate) struct LogsArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev
    #[arg(value_name = "KIND/NAME")]
    pub run: RunName,
    /// Follow the logs until the run has finished, or with --step until the step has
    #[arg(short, long)]
    pub follow: bool,
    /// Only this step
    #[arg(long, value_parser = values::step())]
    pub step: Option<StepName>,
    /// Only this shard of the step, counted from 0
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// Print the log of the pod before the latest one of each shard
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// A run to suspend or resume.
#[derive(Debug, clap::Args)]
pub(crate) struct SuspendArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev
    #[arg(value_name = "KIND/NAME")]
    pub run: RunName,
    #[command(flatten)]
    pub connection: Connection,
}

/// Continue a failed run on a cluster with everything that is on disk
///
/// Finished steps and items are not done again. Fix what the run's message names first.
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev
    #[arg(value_name = "KIND/NAME")]
    pub run: RunName,
    #[command(flatten)]
    pub connection: Connection,
}

/// Run a finished run on a cluster again, from scratch
///
/// The rerun does not reuse earlier artifacts of the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct RerunArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev
    #[arg(value_name = "KIND/NAME")]
    pub run: RunName,
    /// Rerun even if the run has not finished; its unfinished work is lost
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// Print the claims, ConfigMaps and Jobs that the operator would create for manifests
///
/// No cluster is contacted. Values that only a cluster or an earlier step can know are placeholders in angle brackets:
/// digests, names of artifacts, the trainer image.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic render -f examples/quickstart/stage-one.yaml
  kubectl stic render -f runs/ --step train")]
pub(crate) struct RenderArgs {
    /// A manifest, a folder of manifests (*.yaml, *.yml, *.json), or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Only this step
    #[arg(long, value_parser = values::step())]
    pub step: Option<StepName>,
    /// The trainer image for pods that set none and request no GPU
    #[arg(long, value_name = "IMAGE")]
    pub trainer_image: Option<String>,
    /// The trainer image for pods that set none and request a GPU
    #[arg(long, value_name = "IMAGE")]
    pub trainer_gpu_image: Option<String>,
    /// The namespace of manifests without one
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}
