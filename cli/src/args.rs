//! The command line.

mod cluster;
mod report;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use stic_contract::ArtifactKind;

pub(crate) use self::cluster::{
    Connection, Format, GetArgs, LogsArgs, RenderArgs, RerunArgs, RetryArgs, SuspendArgs,
};
pub(crate) use self::report::{ReportArgs, ReportFormat};
use crate::run_name::RunName;

/// Run STIC on this machine or on a Kubernetes cluster.
///
/// The program works as a kubectl plugin, `kubectl stic ...`, and on its own, `kubectl-stic ...`.
#[derive(Debug, Parser)]
#[command(name = "kubectl-stic", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Artifact(ArtifactArgs),
    Get(GetArgs),
    Logs(LogsArgs),
    Report(ReportArgs),
    /// Suspend a run on a cluster
    ///
    /// Its pods save their state and stop, and no step starts until the run is resumed.
    Suspend(SuspendArgs),
    /// Resume a suspended run on a cluster
    ///
    /// The run continues from the state that its pods saved.
    Resume(SuspendArgs),
    Retry(RetryArgs),
    Rerun(RerunArgs),
    Render(RenderArgs),
}

/// Run StageOneRun, StageTwoRun and EvaluationRun manifests on this machine, without a cluster
///
/// All manifests are validated first, as an API server would validate them, and nothing runs if one of them is invalid.
/// The steps then run one after the other. To resume after an interruption or a failure, run the same command again:
/// finished steps are skipped if their artifacts are still intact. A failed step is not retried automatically.
///
/// Each PersistentVolumeClaim in a manifest stands for a folder: the one given with --volume NAME=DIR; otherwise
/// volumes/NAME next to the manifest, if it exists; otherwise volumes/NAME in the work folder, which is created for
/// outputs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0   finished
  1   a bug; please report it
  64  a manifest or an argument is invalid
  65  the data is invalid
  71  the GPU ran out of memory
  74  storage failed
  75  interrupted; run the same command again to resume
  76  the GPU failed; run the same command again to resume

Examples:
  kubectl stic run -f examples/quickstart/stage-one.yaml -f examples/quickstart/stage-two.yaml
  kubectl stic run -f runs/ --volume models=/data/models --volume coco=/data/coco")]
pub(crate) struct RunArgs {
    /// A manifest, a folder of manifests (*.yaml, *.yml, *.json), or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// The folder for state, logs and volumes of outputs
    #[arg(long, value_name = "DIR", default_value = "./stic-work")]
    pub work_dir: PathBuf,
    /// Use folder DIR for the claim NAME
    #[arg(long = "volume", value_name = "NAME=DIR", value_parser = values::volume)]
    pub volumes: Vec<(String, PathBuf)>,
    /// The stic-trainer program [default: the one next to this program, otherwise the one on PATH]
    #[arg(long, value_name = "FILE")]
    pub trainer: Option<PathBuf>,
    /// The namespace of manifests without one
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to print the artifacts
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Print the folder of an artifact of a local run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic artifact stageonerun/scenes
  kubectl stic artifact s1/scenes preferences")]
pub(crate) struct ArtifactArgs {
    /// The run; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev
    #[arg(value_name = "KIND/NAME")]
    pub run: RunName,
    /// The kind of artifact
    #[arg(value_parser = values::artifact_kind(), default_value = ArtifactKind::Adapter.folder_prefix())]
    pub artifact: ArtifactKind,
    /// The work folder of the run
    #[arg(long, value_name = "DIR", default_value = "./stic-work")]
    pub work_dir: PathBuf,
    /// The namespace of the run
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// How to print the artifacts of a local run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for people
    Table,
    /// The runs with their status, and the folders of their artifacts
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_report_is_of_a_work_folder_or_of_a_cluster() {
        let parse = |arguments: &[&str]| {
            Args::try_parse_from(["kubectl-stic", "report"].iter().chain(arguments)).map(|_| ())
        };
        assert!(
            parse(&["ev/coco", "s1/coco", "--paper", "-o", "html", "--context", "lab", "-n", "research"])
                .is_ok()
        );
        assert!(parse(&["--work-dir", "work", "-n", "research"]).is_ok());
        assert!(parse(&["--work-dir", "work", "--context", "lab"]).is_err());
    }
}
