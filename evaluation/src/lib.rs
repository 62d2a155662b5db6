//! Published benchmarks: how their files are read, what a model is asked, what an answer is worth, and what a difference
//! between two models means.
//!
//! Nothing here runs a model or talks to a network.

pub mod benchmarks;
pub mod error;
pub mod metric;
pub mod published;
mod python;
pub mod scorer;
pub mod statistics;
