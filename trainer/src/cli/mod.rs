//! Runs the command and maps its result to an exit code.

mod args;
mod tools;
mod unfinished;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use stic_contract::{StepResult, log_level};
use tracing_subscriber::EnvFilter;

use self::args::{Args, Command, StepArgs};
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};
use crate::io::serve::{LatestProgress, serve};
use crate::io::volumes::Volumes;
use crate::stages::{self, StepContext};

const LOG_VARIABLE: &str = "STIC_LOG";

/// The command line, for the reference pages.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the command; every error becomes its exit code here.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // clap exits with 2 on bad usage; ours is the code from sysexits.h.
            let code = if error.use_stderr() {
                stic_contract::ExitCode::ConfigInvalid
            } else {
                stic_contract::ExitCode::Done
            };
            return ExitCode::from(code.code());
        }
    };
    let filter = match log_filter(std::env::var(LOG_VARIABLE).ok().as_deref()) {
        Ok(filter) => filter,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            return ExitCode::from(error.exit_code().code());
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would panic if the log is on a full disk.
        .log_internal_errors(false)
        .init();
    let serves = matches!(args.command, Command::Serve(_));
    let result = match args.command {
        Command::Step(args) => step(&args),
        Command::Score(args) => tools::score(&args),
        Command::Export(args) => tools::export(&args),
        Command::Evaluate(args) => tools::evaluate(&args),
        Command::Serve(args) => tools::serve(&args),
        Command::Inspect(args) => tools::inspect(&args),
        Command::Unfinished(args) => unfinished::unfinished(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A server has no work to continue, and has logged that it stopped.
            if !(serves && matches!(error, Error::Interrupted)) {
                report(&error);
            }
            ExitCode::from(error.exit_code().code())
        }
    }
}

/// The filter that `value` describes.
fn log_filter(value: Option<&str>) -> Result<EnvFilter> {
    let value = value.filter(|value| !value.is_empty()).unwrap_or("info");
    log_level::check(value).map_err(|error| Error::Config(format!("{LOG_VARIABLE}={value}: {error}")))?;
    EnvFilter::try_new(value)
        .map_err(|error| Error::Config(format!("{LOG_VARIABLE}={value}: {error}; correct it")))
}

fn report(error: &Error) {
    match error {
        Error::Interrupted => tracing::warn!("{error}"),
        other => tracing::error!("{other}"),
    }
}

fn step(args: &StepArgs) -> Result<()> {
    let cancellation = CancellationToken::on_signals()?;
    let config = stages::read_config(&args.config)?;
    let board = LatestProgress::default();
    if let Some(address) = args.serve
        && let Some(bound) = serve(address, board.clone())?
    {
        tracing::info!(address = %bound, "serving /progress and /metrics");
    }
    let context = StepContext {
        volumes: Volumes::new(args.volumes.clone()),
        shard: args.shard_index,
        batch_size: args.batch_size,
        cancellation,
        board,
        activation_checkpointing: args.activation_checkpointing.map(Into::into),
        reduced_memory: false,
    };
    let outcome = stages::run(&config, &context);
    let result = match &outcome {
        Ok(result) => result.clone(),
        Err(error) => StepResult { message: Some(error.to_string()), ..StepResult::new(config.step()) },
    };
    let written = args.result.as_ref().map_or(Ok(()), |path| stages::write_result(path, &result));
    // The step's own error takes precedence: on a full disk the result cannot be written either.
    let result = outcome?;
    written?;
    if let Some(message) = &result.message {
        tracing::info!("{message}");
    }
    tools::print(format!("{}\n", result.to_termination_message()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::log_filter;

    #[test]
    fn an_unknown_log_level_is_an_error() {
        for valid in [None, Some(""), Some("warn,stic_trainer::io=debug")] {
            assert!(log_filter(valid).is_ok(), "{valid:?}");
        }
        let error = log_filter(Some("info,loud")).expect_err("no level").to_string();
        assert!(error.starts_with("STIC_LOG=info,loud: \"loud\" is not a log level; use off"), "{error}");
    }
}
