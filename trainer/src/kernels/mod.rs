//! What a CPU computes in f32 by kernels of our own; attention aside, one file an operation.
//!
//! Each operation stands in its file twice: as a kernel, and composed of candle's operations for every other device
//! and type. Both carry gradients, and tests hold the one against the other.
//!
//! **Bits.** Work is split over threads by outputs, never along a sum, and a sum is taken in the same order whatever
//! it is computed beside. So on one kind of CPU a result has the same bits for every number of threads.
//!
//! **Speed.** A kernel runs inside [`pulp::Arch::dispatch`], compiled for AVX2 and AVX-512 beside the baseline.
//! Whatever it calls is `#[inline(always)]`: a function that stays a function is compiled for the baseline only.

pub(crate) mod head;
mod lanes;
pub(crate) mod linear;
pub(crate) mod lora;
pub(crate) mod norm;
mod products;
pub(crate) mod rope;
mod rows;
#[cfg(test)]
mod speed;
pub(crate) mod swish;
#[cfg(test)]
mod testing;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};
use rayon::prelude::*;

/// So many elements are worth a thread's waking.
const PIECE: usize = 16 * 1024;

/// Whether there are kernels for where and what `xs` is.
fn suits(xs: &Tensor) -> bool {
    xs.device().is_cpu() && xs.dtype() == DType::F32
}

/// The elements of a contiguous f32 tensor on the CPU, held for reading.
struct Floats<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Floats<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    fn get(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => elements(storage, self.layout),
            _ => candle_core::bail!("a kernel of the CPU was given a tensor of another device"),
        }
    }
}

/// The elements of a contiguous f32 tensor.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a kernel was given a tensor that is not contiguous: {layout:?}"),
    }
}

/// Runs `work` over all of `to` in pieces of whole rows of `width`, on all threads where that is worth it. `work` is
/// given a piece and its first row, and must be `#[inline(always)]`.
#[inline(always)]
fn by_rows(to: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let arch = pulp::Arch::new();
    let rows = PIECE.div_ceil(width.max(1));
    let pieces = to.par_chunks_mut((rows * width).max(1)).enumerate();
    if pieces.len() > 1 {
        pieces.for_each(
            #[inline(always)]
            |(i, piece)| {
                arch.dispatch(
                    #[inline(always)]
                    || work(i * rows, piece),
                )
            },
        );
    } else {
        arch.dispatch(
            #[inline(always)]
            || work(0, to),
        );
    }
}
