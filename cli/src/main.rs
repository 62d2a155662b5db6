//! `kubectl-stic`: the kubectl plugin. `run` executes manifests on this machine, with no cluster; others look after runs
//! on one.

mod args;
mod cluster;
mod error;
mod locate;
mod manifests;
mod render;
mod run;
mod say;
mod state;
mod table;
mod volumes;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let ended =
        args::Args::try_parse().map_err(error::Failure::from_clap).and_then(|args| match args.command {
            args::Command::Run(args) => run::run(&args),
            args::Command::Artifact(args) => artifact(&args),
            args::Command::Get(args) => cluster::get(&args),
            args::Command::Logs(args) => cluster::logs(&args),
            args::Command::Suspend(args) => cluster::suspend(&args, true),
            args::Command::Resume(args) => cluster::suspend(&args, false),
            args::Command::Rerun(args) => cluster::rerun(&args),
            args::Command::Render(args) => render::render(&args),
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn artifact(args: &args::ArtifactArgs) -> error::Result<()> {
    let (kind, name) = &args.run;
    let folder = state::State::artifact(&args.work_dir, (kind, &args.namespace, name), args.artifact.into())?;
    say::print(folder.display())
}
