//! Questions and scenes held out: what a model answers and describes under several policies, compared in pairs.

mod answers;
pub mod intervals;
pub mod phrases;
pub mod scenes;
