//! The STIC controller: it turns runs into Jobs and reports their status.
//!
//! Architecture Invariant: [`validated`], [`build`], [`snapshot`], [`decide`], [`decision`], [`requeue`], [`status`] and the `validate`
//! functions of the kinds read no clock, no disk and no API server. `kubectl stic run` uses the same functions, and so
//! takes the same decisions.
//!
//! Architecture Invariant: [`Validated`] is the only form in which a spec reaches [`decide`] and [`build`].
//!
//! Architecture Invariant: every write to the API server is a method of [`cluster::api_writer::ApiWriter`], except those to
//! the lease. Reads are the watches in [`process`] and [`cluster`], the lists of [`watches`], and the requests of [`controllers`] for what the watches
//! may not have delivered yet.

pub mod build;
pub mod cluster;
pub mod context;
pub mod controllers;
pub mod decide;
pub mod decision;
pub mod failpoint;
pub mod metrics;
pub mod process;
pub mod refusal;
pub mod requeue;
pub mod run_key;
pub mod server;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod telemetry;
pub mod trainer_images;
pub mod validated;
pub mod watches;

pub use refusal::Refusal;
pub use validated::Validated;
