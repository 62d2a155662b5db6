//! One folder per kind. What the kinds share lies above them.

pub mod stage_one;
pub mod stage_two;
mod train;
