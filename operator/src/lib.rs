//! The STIC controller: what a spec means, what to do next, which objects to make, what to report; and the process
//! that does it on a cluster.
//!
//! Architecture Invariant: [`validated`], [`plan`], [`build`], [`status`] and the kinds' `validate` read no clock, no
//! disk and no API server. `kubectl stic run` takes the same decisions with the same code as the controller.
//!
//! Architecture Invariant: [`Validated`] is the only input of [`plan`] and [`build`]; a spec never reaches them.
//!
//! Architecture Invariant: of a reconciliation only [`controllers::observe`], [`controllers::act`] and the one status
//! patch touch the API server, and all writes are in [`cluster::apply`].

pub mod build;
pub mod cluster;
pub mod context;
pub mod controllers;
pub mod metrics;
pub mod plan;
pub mod process;
pub mod refusal;
pub mod server;
pub mod settings;
pub mod status;
pub mod telemetry;
pub mod validated;

pub use plan::{Observed, Plan, plan};
pub use refusal::{Reason, Refusal};
pub use validated::Validated;
