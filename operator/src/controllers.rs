//! The reconciliation of runs: gather a snapshot, decide, execute, requeue. What differs between the kinds has a folder
//! for each kind.

mod blocked;
mod claims;
pub mod error;
pub mod evaluation;
mod execute;
mod facts;
mod gather;
mod interruptions;
pub mod observe;
mod pending_pods;
mod recipes;
pub mod reconcile;
mod reconcile_failure;
mod repetition;
mod retries;
pub mod run;
pub mod stage_one;
pub mod stage_two;
mod status_record;
pub mod status_results;
mod terminal;
mod unreadable;
pub mod upstream;
mod validation;
