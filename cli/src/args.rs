//! What can be asked.

mod cluster;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use stic_contract::ArtifactKind;

pub(crate) use self::cluster::{
    Connection, Format, GetArgs, LogsArgs, RenderArgs, RerunArgs, RunName, SteerArgs,
};

/// STIC from the command line: `kubectl stic ...`, or `kubectl-stic ...` by itself.
#[derive(Debug, Parser)]
#[command(name = "kubectl-stic", version, about, propagate_version = true)]
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
    /// Hold a run on a cluster: its pods save and end, and no step starts.
    Suspend(SteerArgs),
    /// Let a run on a cluster that is held go on from where it was.
    Resume(SteerArgs),
    Rerun(RerunArgs),
    Render(RenderArgs),
}

/// Run StageOneRun and StageTwoRun manifests on this machine, with no cluster.
///
/// Every manifest is first checked as an API server would check it; nothing runs while one of them is wrong. Steps
/// then run one after the other. The same command again goes on where an earlier one stopped: steps that are done
/// and whose artifacts still verify are not run again. A step that fails is not tried again by itself.
///
/// A volume is a folder here. Claim NAME is, in this order: the folder given with --volume NAME=DIR; the folder
/// volumes/NAME beside the manifest; the folder volumes/NAME in the work folder, which is made for outputs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 done; 64 a manifest or an argument is wrong; 65 the data is wrong; 74 storage failed;
75 interrupted, run the same command again to go on; anything else is a bug.

Examples:
  kubectl stic run -f examples/quickstart/stage-one.yaml -f examples/quickstart/stage-two.yaml
  kubectl stic run -f runs/ --volume models=/data/models --volume coco=/data/coco")]
pub(crate) struct RunArgs {
    /// A manifest, a folder of manifests (*.yaml, *.yml, *.json), or - for standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Where state, logs and made volumes are kept.
    #[arg(long, value_name = "DIR", default_value = "./stic-work")]
    pub work_dir: PathBuf,
    /// The folder that stands for a claim.
    #[arg(long = "volume", value_name = "NAME=DIR", value_parser = volume)]
    pub volumes: Vec<(String, PathBuf)>,
    /// The trainer. Default: stic-trainer beside this program, else on PATH.
    #[arg(long, value_name = "FILE")]
    pub trainer: Option<PathBuf>,
    /// The namespace of manifests that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to print what was made.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Print the folder of an artifact that a run on this machine made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic artifact stageonerun/scenes
  kubectl stic artifact s1/scenes preferences")]
pub(crate) struct ArtifactArgs {
    /// The run, as KIND/NAME.
    #[arg(value_name = "KIND/NAME", value_parser = run)]
    pub run: RunName,
    /// Which of its artifacts.
    #[arg(value_enum, default_value = "adapter")]
    pub artifact: Artifact,
    /// The work folder of the run.
    #[arg(long, value_name = "DIR", default_value = "./stic-work")]
    pub work_dir: PathBuf,
    /// The namespace of the run.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// An artifact of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Artifact {
    /// The checked items.
    Prepared,
    /// Stage 1's pairs.
    Preferences,
    /// Stage 2's descriptions.
    Descriptions,
    /// The LoRA adapter.
    Adapter,
}

impl From<Artifact> for ArtifactKind {
    fn from(artifact: Artifact) -> Self {
        match artifact {
            Artifact::Prepared => Self::Prepared,
            Artifact::Preferences => Self::Preferences,
            Artifact::Descriptions => Self::Descriptions,
            Artifact::Adapter => Self::Adapter,
        }
    }
}

/// How to print what was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// The runs with their status, and the folders of their artifacts.
    Json,
}

fn volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.into(), folder.into())),
        _ => Err("write NAME=DIR, such as models=/data/models".into()),
    }
}

fn run(text: &str) -> Result<RunName, String> {
    let (kind, name) = text.split_once('/').unwrap_or_default();
    // As kubectl prints it, the group may follow the kind.
    let kind = kind.to_lowercase();
    let kind = match kind.strip_suffix(".stic.dev").unwrap_or(&kind) {
        _ if name.is_empty() => return Err("write KIND/NAME, such as stageonerun/scenes or s2/scenes".into()),
        "s1" | "stageonerun" | "stageoneruns" => "StageOneRun",
        "s2" | "stagetworun" | "stagetworuns" => "StageTwoRun",
        _ => return Err("write KIND/NAME, such as stageonerun/scenes or s2/scenes".into()),
    };
    Ok((kind, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_run_is_named_as_kubectl_names_it() {
        assert_eq!(run("StageOneRun/a"), Ok(("StageOneRun", "a".into())));
        assert_eq!(run("s2/b"), Ok(("StageTwoRun", "b".into())));
        assert_eq!(run("stageonerun.stic.dev/a"), Ok(("StageOneRun", "a".into())));
        assert!(run("scenes").is_err() && run("pod/scenes").is_err() && run("s1/").is_err());
    }

    #[test]
    fn a_volume_is_a_name_and_a_folder() {
        assert_eq!(volume("models=/data=x"), Ok(("models".into(), "/data=x".into())));
        assert!(volume("models").is_err() && volume("=x").is_err());
    }
}
