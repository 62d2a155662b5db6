//! The steps of a run, one file each. [`run`] is the one place that maps a task to its step.

mod context;
mod describe;
pub(crate) mod disk_space;
mod evaluation;
mod generate;
mod inputs;
mod items;
mod prepare;
mod prompts;
mod records;
mod shards;
mod train;

use std::io::ErrorKind;
use std::path::Path;

use candle_core::Device;
use stic_contract::artifact::progress_file;
use stic_contract::{RunConfig, StepResult, Task};

pub use self::context::StepContext;
pub use self::items::{GivenPair, Item, Message, PreparedItems};
pub use self::records::{DescriptionRecord, PreferenceRecord};

use self::context::Execution;
use crate::device;
use crate::error::{Error, Result};
use crate::io::artifact::Output;
use crate::io::atomic;
use crate::io::lock::StepLock;
use crate::io::progress::Reporter;

/// Reads a run config.
///
/// # Errors
/// [`Error::Config`] naming the file and the key's path.
pub fn read_config(path: &Path) -> Result<RunConfig> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::IsADirectory => {
            Error::Config(format!("{}: {e}; pass the run config with --config", path.display()))
        }
        _ => Error::storage(path)(e),
    })?;
    RunConfig::from_json(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))
}

/// Runs one step.
///
/// # Errors
/// Whatever ends the step early; finished items and training states are kept.
pub fn run(config: &RunConfig, context: &StepContext) -> Result<StepResult> {
    // Before anything else: a pod that cannot compute must not occupy a GPU.
    let devices = match config.task.precision() {
        Some(precision) => device::of_step(config.gpus, precision)?,
        None => vec![Device::Cpu],
    };
    let output = Output::open(&config.run, &config.output, &context.volumes)?;
    let progress = output.root().join(progress_file(&config.run, config.step(), context.shard));
    let lock = output.partial().join(format!("{}-{:05}.lock", config.step(), context.shard));
    let _lock = StepLock::acquire(&lock, &context.cancellation)?;
    let mut reporter = Reporter::new(progress, context.board.clone(), config.step());
    let mut execute = |context: &StepContext| {
        let execution =
            Execution { config, devices: &devices, context, output: &output, reporter: &mut reporter };
        match &config.task {
            Task::Prepare(task) => prepare::run(task, execution),
            Task::Generate(task) => generate::run(task, execution),
            Task::Describe(task) => describe::run(task, execution),
            Task::Train(task) => train::run(task, execution),
            Task::PrepareEvaluation(task) => evaluation::prepare(task, execution),
            Task::Answer(task) => evaluation::answer(task, execution),
            Task::Judge(task) => evaluation::judge(task, execution),
            Task::Score(task) => evaluation::score(task, execution),
        }
    };
    let result = match execute(context) {
        Err(Error::OutOfMemory(why)) => {
            tracing::warn!("the GPU ran out of memory: {why}; continuing with less in it at a time");
            execute(&context.with_reduced_memory())
        }
        result => result,
    };
    reporter.flush()?;
    result
}

/// Writes a result to the file of `--result`.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_result(path: &Path, result: &StepResult) -> Result<()> {
    let text = result.to_termination_message();
    // Kubernetes mounts the termination message as a file: it can be written, but not replaced.
    if path.exists() {
        return std::fs::write(path, text).map_err(Error::storage(path));
    }
    atomic::write(path, text.as_bytes())
}
