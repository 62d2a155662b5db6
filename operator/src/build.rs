//! Pure builders of the Kubernetes objects of a run.

pub mod config_map;
pub mod job;
pub mod labels;
pub mod names;
pub mod paths;
pub mod pod;
pub mod pod_check;
pub mod run_config;
pub mod volume_claim;
