//! The STIC operator.

use std::process::ExitCode;

use clap::Parser;
use stic_operator::settings::{Args, Settings};
use stic_operator::{process, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let run = async {
        let settings = Settings::resolve(Args::parse())?;
        telemetry::start(&settings)?;
        process::run(settings).await
    };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stic-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
