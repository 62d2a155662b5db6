//! The optimizer, the schedule, and one step of training.

pub mod adamw;
pub mod checkpoint_policy;
pub mod schedule;
pub mod step;
