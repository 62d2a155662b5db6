//! The environment of a step, besides its task.

use candle_core::Device;
use stic_contract::RunConfig;
use stic_contract::recipe::ActivationCheckpointing;

use crate::cancellation::CancellationToken;
use crate::io::artifact::Output;
use crate::io::progress::Reporter;
use crate::io::serve::LatestProgress;
use crate::io::volumes::Volumes;

/// The process's arguments besides the run config.
#[derive(Debug, Clone)]
pub struct StepContext {
    pub volumes: Volumes,
    /// The index of a sharded step.
    pub shard: u32,
    /// How many responses are generated at a time, 0 for as many as fit in memory, instead of what the run config says. No
    /// result depends on it.
    pub batch_size: Option<usize>,
    pub cancellation: CancellationToken,
    /// Where progress is published.
    pub board: LatestProgress,
    /// Instead of what the run config says. No result depends on it.
    pub activation_checkpointing: Option<ActivationCheckpointing>,
    /// Set for the second attempt, after the GPU ran out of memory.
    pub reduced_memory: bool,
}

impl StepContext {
    /// The same with less in memory at a time.
    pub(super) fn with_reduced_memory(&self) -> Self {
        let activation_checkpointing = Some(ActivationCheckpointing::EveryLayer);
        Self { activation_checkpointing, reduced_memory: true, ..self.clone() }
    }
}

/// One execution of a step.
pub(super) struct Execution<'a> {
    pub config: &'a RunConfig,
    /// Those of the pod, at least one; of a step that computes nothing, the CPU.
    pub devices: &'a [Device],
    pub context: &'a StepContext,
    pub output: &'a Output,
    pub reporter: &'a mut Reporter,
}
