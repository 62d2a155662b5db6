//! The STIC controller's pure parts: what a spec means, what to do next, which objects to make, what to report.
//!
//! Architecture Invariant: nothing here reads a clock, a disk or an API server. `kubectl stic run` takes the same
//! decisions with the same code as the controller.
//!
//! Architecture Invariant: [`Validated`] is the only input of [`plan`] and [`build`]; a spec never reaches them.

pub mod build;
pub mod controllers;
pub mod plan;
pub mod refusal;
pub mod status;
pub mod validated;

pub use plan::{Observed, Plan, plan};
pub use refusal::{Reason, Refusal};
pub use validated::Validated;
