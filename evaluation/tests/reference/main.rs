//! What the reference programs gave, and what ours give. The files in `tests/vectors` say where their cases come from.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod amber;
mod chair;
mod common;
mod hallusion_bench;
mod llava_bench;
mod math_vista;
mod mm_star;
mod mm_vet;
mod pope;
mod requests;
mod rows;
mod yes_no;
