//! Development tasks: `cargo xtask generate` writes every file and table that is made from code, and
//! `cargo xtask generate --check` fails where one is out of date.

mod benchmarks;
mod cli_help;
mod conditions;
mod crd_reference;
mod crds;
mod exit_codes;
mod generated;
mod markdown;
mod metrics;

use std::path::Path;

use anyhow::Result;
use clap::{Parser, Subcommand};

use self::generated::{Generated, Mode};

#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Development tasks of this repository")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write the CRDs, the reference pages, and the tables between `<!-- generated: NAME -->` marks in documents.
    Generate {
        /// Write nothing; fail if a file is not what would be written.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    match Args::parse().task {
        Task::Generate { check } => {
            let mode = if check { Mode::Check } else { Mode::Write };
            generated::apply(&root, &generated()?, mode)
        }
    }
}

/// Everything that is generated.
fn generated() -> Result<Generated> {
    let tables = [
        ("benchmarks", benchmarks::table()),
        ("conditions", conditions::condition_table()),
        ("reasons", conditions::reason_table()),
        ("exit-codes", exit_codes::table()),
        ("metrics", metrics::table()?),
    ];
    let mut files = crds::files()?;
    files.extend(crd_reference::pages()?);
    files.push(conditions::page());
    files.push(exit_codes::page());
    files.push(metrics::page()?);
    files.extend(cli_help::pages());
    Ok(Generated { files, tables: tables.into_iter().collect() })
}
