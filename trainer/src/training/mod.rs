//! The optimizer, the learning-rate schedule, the checkpoint policy, and one step of training.

pub mod adamw;
pub mod checkpoint_policy;
pub mod schedule;
mod sequence;
pub mod step;

pub use sequence::{Branches, Pair, SupervisedExample};
