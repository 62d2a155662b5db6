//! The Kubernetes API of STIC, `stic.dev/v1alpha1`: [`StageOneRun`], [`StageTwoRun`] and [`EvaluationRun`].
//!
//! Architecture Invariant: every default is in the schema, so that `kubectl get -o yaml` shows what will run. Only
//! settings that depend on the profile have no default here; `status.resolved` shows what they became.
//!
//! Architecture Invariant: every field that determines a result is immutable. [`schema`] generates the rules for that
//! from the types; a field is mutable only if [`schema::MUTABLE`] lists it.

#![warn(missing_docs)]

#[cfg(feature = "admission")]
pub mod admission;
pub(crate) mod cel;
pub(crate) mod choices;
pub mod conditions;
pub mod decimal;
pub mod evaluation;
pub mod kind;
pub mod lifecycle;
pub mod model;
pub mod pod;
pub mod preferences;
pub mod schema;
pub mod stage_one;
pub mod stage_two;
pub mod status;
pub mod training;
pub mod volumes;

pub use conditions::{ConditionType, Reason};
pub use decimal::Decimal;
pub use evaluation::{EvaluationRun, EvaluationRunSpec};
pub use kind::ApiKind;
pub use stage_one::{StageOneRun, StageOneRunSpec};
pub use stage_two::{StageTwoRun, StageTwoRunSpec};
pub use status::RunStatus;

/// The API group.
pub const GROUP: &str = "stic.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";
