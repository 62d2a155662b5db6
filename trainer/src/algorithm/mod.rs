//! The method without a model: draws, corruption, infusion, losses, sampling.

pub mod corruption;
pub mod draw;
pub mod infusion;
pub mod losses;
pub mod sampling;
