//! `stic-trainer`: one step of a run, or one of the tools beside it.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    stic_trainer::memory::keep_freed();
    cli::main()
}
