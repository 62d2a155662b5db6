//! Bad input as a user meets it: the exit code, the message, and that nothing is lost or half written. Every case runs
//! the program itself, and succeeds once the input is corrected.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod adapter;
mod batch_size;
mod config;
mod data;
mod disk;
mod evaluation;
mod images;
mod model;
mod paths;
mod references;
mod rows;
mod sandbox;
mod scoring;
mod tensors;
