//! `kubectl-stic`, the kubectl plugin. `run` executes manifests on this machine without a cluster, `render` prints the
//! objects that the operator would create, `report` reads runs of either kind, and the other commands work with the runs on a
//! cluster.

mod args;
mod assumed;
mod cluster;
mod error;
mod format;
mod manifests;
mod render;
mod report;
mod results;
mod run;
mod run_name;
mod state;
mod stdio;
mod table;
mod trainer;
mod upstreams;
mod validate;
mod volumes;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// The command line, for the reference pages.
#[must_use]
pub fn command() -> clap::Command {
    args::Args::command()
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let result =
        args::Args::try_parse().map_err(error::Failure::from_clap).and_then(|args| match args.command {
            args::Command::Run(args) => run::run(&args),
            args::Command::Artifact(args) => artifact(&args),
            args::Command::Get(args) => cluster::get(&args),
            args::Command::Logs(args) => cluster::logs(&args),
            args::Command::Report(args) => report::report(&args),
            args::Command::Suspend(args) => cluster::set_suspended(&args, true),
            args::Command::Resume(args) => cluster::set_suspended(&args, false),
            args::Command::Rerun(args) => cluster::rerun(&args),
            args::Command::Retry(args) => cluster::retry(&args),
            args::Command::Render(args) => render::render(&args),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => print_failure(&failure),
    }
}

/// Prints the failure and returns its exit code.
fn print_failure(failure: &error::Failure) -> ExitCode {
    if let Some(message) = &failure.message {
        let is_error = failure.code != stic_contract::ExitCode::Interrupted.code();
        let prefix = if is_error { "error: " } else { "" };
        stdio::print_stderr(format_args!("{prefix}{message}"));
    }
    failure.code.into()
}

fn artifact(args: &args::ArtifactArgs) -> error::Result<()> {
    let folder = state::State::artifact(&args.work_dir, &args.namespace, &args.run, args.artifact)?;
    stdio::print(folder.display())
}
