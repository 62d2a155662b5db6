//! `kubectl-stic`: the kubectl plugin. `run` executes manifests on this machine, with no cluster.

mod args;
mod error;
mod locate;
mod manifests;
mod run;
mod table;
mod volumes;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let ended =
        args::Args::try_parse().map_err(error::Failure::from_clap).and_then(|args| match args.command {
            args::Command::Run(args) => run::run(&args),
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
