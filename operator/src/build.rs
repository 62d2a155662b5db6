//! Pure builders of the objects a run is made of.

pub mod config_map;
pub mod job;
pub mod labels;
pub mod names;
mod pod;
pub mod run_config;
pub mod volume_claim;

/// Where the trainer finds its run config.
pub const CONFIG_DIR: &str = "/etc/stic";
/// The file in it.
pub const CONFIG_FILE: &str = "run-config.json";
/// The folder volumes are mounted under.
pub const VOLUMES_DIR: &str = "/volumes";

/// One attempt at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The step.
    pub step: stic_contract::StepName,
    /// Which attempt, from 1.
    pub number: u32,
}
