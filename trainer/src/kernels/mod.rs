//! The operations that the model spends its time in, written for the CPU's vector instructions in f32.
//!
//! Each operation exists twice in its file: as a kernel, and composed of candle's operations for every other
//! device and type. Both have gradients of their own, which tests compare with those that candle derives.
//!
//! **Invariant:** a result's bits depend on its inputs alone: not on the number of threads and, where rows are decoded
//! together, not on the other rows. So work is split by outputs, never along a sum.
//!
//! A kernel runs inside [`pulp::Arch::dispatch`], which is compiled for AVX2 and AVX-512 beside the baseline.
//! Whatever it calls is `#[inline(always)]`: a function that is not inlined is compiled for the baseline
//! only.

mod aligned_buffer;
pub mod attention;
mod batched_gemv;
mod composed_op;
mod elementwise;
mod epilogue;
mod gemm;
pub mod linear;
pub(crate) mod log_probs;
pub(crate) mod lora;
mod micro_kernel;
pub mod norm;
pub(crate) mod pool;
mod prefetch;
pub mod rope;
pub(crate) mod storage;
pub mod swish;
#[cfg(test)]
mod testing;
mod vector_math;
