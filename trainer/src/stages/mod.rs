//! The steps of a run: load, loop, save.

mod candidates;
mod describe;
pub(crate) mod desk;
mod disk;
mod examples;
mod generate;
mod items;
mod keys;
mod model_card;
mod pool;
mod prepare;
mod prompts;
mod proof;
mod rows;
mod shards;
mod train;
mod vlm;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use stic_contract::artifact::progress_file;
use stic_contract::{RunConfig, StepResult, Task};

pub use self::items::{GivenPair, Item, Message, PreparedItems};
pub use self::rows::{DescriptionRow, PreferenceRow, ResponseRecord};
pub use self::vlm::{Checked, Vlm};

use crate::error::{Error, Result};
use crate::io::artifact::Output;
use crate::io::atomic;
use crate::io::lock::StepLock;
use crate::io::progress::Reporter;
use crate::io::serve::Board;
use crate::io::stop::Stop;
use crate::io::volumes::Volumes;
use crate::training::activation_checkpointing::ActivationCheckpointing;

/// What a step is given beside its config.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// The mounted volumes.
    pub volumes: Volumes,
    /// Which shard of a sharded step.
    pub shard: u32,
    /// How many responses are written at once; 0 for as many as memory holds. No result depends on it.
    pub responses_at_once: usize,
    /// Whether it was asked to stop.
    pub stop: Stop,
    /// Where its progress is shown.
    pub board: Board,
    /// What training keeps in memory.
    pub activation_checkpointing: ActivationCheckpointing,
}

/// Reads a run config.
///
/// # Errors
/// [`Error::Config`] naming the file and the key's path.
pub fn read_config(path: &Path) -> Result<RunConfig> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::IsADirectory => {
            Error::Config(format!("{}: {e}; name the run config with --config", path.display()))
        }
        _ => Error::storage(path)(e),
    })?;
    RunConfig::from_json(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))
}

/// Runs one step.
///
/// # Errors
/// Whatever ends the step early; finished items and saved state stay.
pub fn run(config: &RunConfig, context: &StepContext) -> Result<StepResult> {
    let output = Output::open(&config.run, &config.output, &context.volumes)?;
    let progress: PathBuf = output.root().join(progress_file(&config.run, config.step(), context.shard));
    let lock = output.partial().join(format!("{}-{:05}.lock", config.step(), context.shard));
    let _lock = StepLock::acquire(&lock, &context.stop)?;
    let mut reporter = Reporter::new(progress, context.board.clone(), config.step());
    let result = match &config.task {
        Task::Prepare(task) => prepare::run(task, config, context, &output, &mut reporter),
        Task::Generate(task) => generate::run(task, config, context, &output, &mut reporter),
        Task::Describe(task) => describe::run(task, config, context, &output, &mut reporter),
        Task::Train(task) => train::run(task, config, context, &output, &mut reporter),
    };
    reporter.flush()?;
    result
}

/// Writes a result where the caller asked for it.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_result(path: &Path, result: &StepResult) -> Result<()> {
    let text = result.to_termination_message();
    // Kubernetes mounts the termination message as a file: it can be written, not replaced.
    if path.exists() {
        return std::fs::write(path, text).map_err(Error::storage(path));
    }
    atomic::write(path, text.as_bytes())
}
