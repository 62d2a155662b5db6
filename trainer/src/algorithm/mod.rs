//! The parts of the method that need no model: random draws, image corruption, infusion, losses, sampling.

pub mod corruption;
pub mod draw;
pub mod infusion;
pub mod losses;
pub mod sampling;
