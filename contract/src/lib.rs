//! The documents that the operator and the trainer exchange.
//!
//! Plain serde types and pure functions: this crate knows neither Kubernetes nor candle. A [`RunConfig`] goes to the
//! trainer; a [`StepResult`] and a [`Progress`] come back; [`ExitCode`] tells how a step ended. [`pipeline`] is the
//! one place that defines the steps, their order, and the artifacts between them.

#![warn(missing_docs)]

pub mod artifact;
pub mod config;
pub mod digest;
mod enumerated;
pub mod evaluation;
pub mod exit_code;
pub mod identity;
pub mod listen;
pub mod log_level;
pub mod pipeline;
pub mod progress;
pub mod prompts;
pub mod recipe;
pub mod result;

pub use artifact::{Artifact, ArtifactRef, SuccessMarker};
pub use config::{RunConfig, Task};
pub use digest::Digest;
pub use exit_code::ExitCode;
pub use identity::{RunIdentity, RunKind, VolumePath};
pub use pipeline::{ArtifactKind, StepName};
pub use progress::Progress;
pub use result::StepResult;
