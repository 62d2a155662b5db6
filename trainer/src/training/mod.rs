//! Gradients, the optimizer, the schedule, and one step of training.

pub mod adamw;
pub mod checkpoint_policy;
mod gradients;
pub mod schedule;
pub mod step;

pub use gradients::Gradients;
