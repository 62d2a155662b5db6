//! What the model spends its time in, written for the CPU's vector instructions in f32.
//!
//! Each operation stands in its file twice: as a kernel, and composed of the tensor library's own operations for every
//! other device and type. Both carry gradients, and tests hold the one against the other.
//!
//! **Invariant:** a result's bits depend on its inputs alone: not on the number of threads, and where rows are decoded
//! together not on which others there are. So work is split by outputs, never along a sum.
//!
//! A kernel runs inside [`pulp::Arch::dispatch`], which is compiled for AVX2 and AVX-512 beside the baseline. Whatever it
//! calls is `#[inline(always)]`: a function that stays a function is compiled for the baseline only.

mod ahead;
pub mod attention;
pub(crate) mod buffer;
pub(crate) mod head;
mod lanes;
pub(crate) mod linear;
pub(crate) mod lora;
pub(crate) mod norm;
pub(crate) mod numbers;
pub(crate) mod pool;
mod products;
pub(crate) mod rope;
mod rows;
pub(crate) mod simd;
#[cfg(test)]
mod speed;
pub(crate) mod swish;
#[cfg(test)]
mod testing;
