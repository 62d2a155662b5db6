//! What the model spends its time in, written for the CPU's vector instructions in f32.
//!
//! **Invariant:** a result's bits depend on its inputs alone: not on the number of threads, and where rows are decoded
//! together not on which others there are.

pub mod attention;
pub(crate) mod buffer;
pub(crate) mod numbers;
pub(crate) mod simd;
