//! What the operator and the trainer say to each other.
//!
//! Plain serde types and pure functions: this crate knows neither Kubernetes nor candle. A [`RunConfig`] goes
//! to the trainer, a [`StepResult`] and a [`Progress`] come back, [`ExitCode`] says how a step ended, and
//! [`pipeline`] is the one place where the order of steps, their inputs and their outputs are written down.

pub mod artifact;
pub mod config;
pub mod digest;
pub mod exit_code;
pub mod pipeline;
pub mod progress;
pub mod prompts;
pub mod recipe;
pub mod result;

pub use artifact::{Artifact, ArtifactKind, ArtifactRef, SuccessMarker};
pub use config::{RunConfig, RunIdentity, RunKind, Task, VolumePath};
pub use digest::Digest;
pub use exit_code::ExitCode;
pub use pipeline::StepName;
pub use progress::Progress;
pub use result::StepResult;
