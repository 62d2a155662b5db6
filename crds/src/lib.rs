//! The Kubernetes API of STIC, `stic.dev/v1alpha1`: [`StageOneRun`] and [`StageTwoRun`].
//!
//! Architecture Invariant: every default a user may leave out stands in the schema, so that `kubectl get -o yaml`
//! shows what will run. Only what a profile decides has no default here; `status.resolved` shows what it became.
//!
//! Architecture Invariant: everything that decides a result is immutable, and [`schema`] writes the rules that say
//! so from the shape of the types. A field is mutable only if [`schema::MUTABLE`] names it.

#[cfg(feature = "admission")]
pub mod admission;
pub(crate) mod cel;
pub(crate) mod choices;
pub mod decimal;
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

pub use decimal::Decimal;
pub use stage_one::{StageOneRun, StageOneRunSpec};
pub use stage_two::{StageTwoRun, StageTwoRunSpec};
pub use status::RunStatus;

/// The API group.
pub const GROUP: &str = "stic.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";
