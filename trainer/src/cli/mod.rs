//! The command line: arguments in, an exit code out.

mod args;
mod tools;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use stic_contract::{ExitCode as Ended, StepResult};
use tracing_subscriber::EnvFilter;

use self::args::{Args, Command, StepArgs};
use stic_trainer::error::{Error, Result};
use stic_trainer::io::serve::{Board, serve};
use stic_trainer::io::stop::Stop;
use stic_trainer::io::volumes::Volumes;
use stic_trainer::stages::{self, StepContext};

/// Runs the command; every error becomes its exit code here.
pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // clap's own code for bad usage is 2; ours is that of sysexits.
            let code = if error.use_stderr() { Ended::ConfigInvalid } else { Ended::Done };
            return ExitCode::from(code.code());
        }
    };
    let filter = EnvFilter::try_from_env("STIC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would panic where the log is on a full disk.
        .log_internal_errors(false)
        .init();
    let ended = match args.command {
        Command::Step(args) => step(&args),
        Command::Score(args) => tools::score(&args),
        Command::Export(args) => tools::export(&args),
        Command::Evaluate(args) => tools::evaluate(&args),
        Command::Inspect(args) => tools::inspect(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code().code())
        }
    }
}

fn report(error: &Error) {
    match error {
        Error::Interrupted => tracing::warn!("{error}"),
        other => tracing::error!("{other}"),
    }
}

fn step(args: &StepArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let config = stages::read_config(&args.config)?;
    let board = Board::default();
    if let Some(address) = args.serve {
        let bound = serve(address, board.clone())?;
        tracing::info!(address = %bound, "serves progress");
    }
    let context = StepContext {
        volumes: Volumes::new(args.volumes.clone()),
        shard: args.shard_index,
        responses_at_once: args.responses_at_once,
        stop,
        board,
        activation_checkpointing: args.activation_checkpointing.into(),
    };
    let ended = stages::run(&config, &context);
    let result = match &ended {
        Ok(result) => result.clone(),
        Err(error) => StepResult { message: Some(error.to_string()), ..StepResult::new(config.step()) },
    };
    let told = args.result.as_ref().map_or(Ok(()), |path| stages::write_result(path, &result));
    // What ended the step comes before that it could not be told: on a full disk neither can be written.
    let result = ended?;
    told?;
    if let Some(message) = &result.message {
        tracing::info!("{message}");
    }
    tools::print(format!("{}\n", result.to_termination_message()).as_bytes())
}
