//! Elementwise and row-wise loops, compiled for the processor's vector instructions and split over threads.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Elements below which waking another thread costs more than it saves.
const MIN_CHUNK: usize = if cfg!(miri) { 8 } else { 16 * 1024 };

/// Calls `work` for chunks of whole rows of `width` elements, on all threads where that pays. `work` gets the
/// index of its first row and the chunk, and must be `#[inline(always)]`.
pub(super) fn for_each_row_chunk<T: Send>(
    out: &mut [T],
    width: usize,
    work: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    let arch = Arch::new();
    let rows = MIN_CHUNK.div_ceil(width);
    let chunks = out.par_chunks_mut(rows * width).enumerate();
    if chunks.len() > 1 {
        chunks.for_each(|(i, chunk)| arch.dispatch(RowChunk { work: &work, first: i * rows, chunk }));
    } else {
        arch.dispatch(RowChunk { work: &work, first: 0, chunk: out });
    }
}

/// A vector of `len` elements that `work` fills as in [`for_each_row_chunk`]; each chunk is zero when `work`
/// gets it. Chunks are zeroed by the thread that works on them, while they are in its cache: one thread that
/// zeroes the whole vector first takes longer than the work.
pub(super) fn collect_row_chunks(
    len: usize,
    width: usize,
    work: impl Fn(usize, &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    for_each_row_chunk(
        &mut out.spare_capacity_mut()[..len],
        width,
        #[inline(always)]
        |first, chunk| work(first, zeroed(chunk)),
    );
    // SAFETY: the chunks cover the first `len` elements, and each was zeroed.
    #[expect(unsafe_code, reason = "initializing the vector first would write it twice")]
    unsafe {
        out.set_len(len);
    }
    out
}

#[inline(always)]
#[expect(unsafe_code, reason = "MaybeUninit::write_filled is not stable yet")]
fn zeroed(chunk: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    chunk.fill(MaybeUninit::new(0.0));
    // SAFETY: every element was just initialized, and `MaybeUninit<f32>` has the layout of `f32`.
    unsafe { &mut *(std::ptr::from_mut(chunk) as *mut [f32]) }
}

/// Not a closure: `dispatch` calls a closure through a function of core's that is not inlined.
struct RowChunk<'a, T, W> {
    work: &'a W,
    first: usize,
    chunk: &'a mut [T],
}

impl<T, W: Fn(usize, &mut [T])> WithSimd for RowChunk<'_, T, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        (*self.work)(self.first, self.chunk);
    }
}
