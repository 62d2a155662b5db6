//! Published benchmarks: how their files are read, what a model is asked, what an answer is worth, and what a difference
//! between two models means.
//!
//! Nothing here runs a model or talks to a network.

mod answered;
pub mod benchmarks;
pub mod error;
pub mod judge;
pub mod metric;
pub mod published;
mod python;
pub mod questions;
pub mod registry;
pub mod results;
pub mod scorer;
pub mod statistics;
