//! Bad input, as a user meets it: the exit code, the words, and that nothing is lost or half written. Every case drives
//! the program itself, and goes on to success once the input is mended.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where its inputs are not what they should be"
)]

mod adapter;
mod at_once;
mod bench;
mod config;
mod data;
mod disk;
mod evaluation;
mod images;
mod model;
mod references;
mod scoring;
mod tensors;
