//! Software prefetch for loops that are bound by memory rather than by arithmetic.

/// f32 values in a cache line.
const CACHE_LINE: usize = 16;

/// Prefetching that a loop interleaves with its iterations.
pub(super) trait Prefetch {
    /// Called once per iteration.
    fn step(&mut self);
}

/// For loops whose operands are already in the cache.
pub(super) struct NoPrefetch;

impl Prefetch for NoPrefetch {
    #[inline(always)]
    fn step(&mut self) {}
}

/// Prefetches consecutive cache lines of a slice.
pub(super) struct LinePrefetch<'a> {
    data: &'a [f32],
    /// The first element that is not yet requested.
    next: usize,
    lines_per_step: usize,
}

impl<'a> LinePrefetch<'a> {
    /// `lines_per_step` lines of `data` in each step, starting at element `first`.
    #[inline(always)]
    pub(super) const fn starting_at(data: &'a [f32], first: usize, lines_per_step: usize) -> Self {
        Self { data, next: first, lines_per_step }
    }

    /// All of `data` within `steps` steps.
    #[inline(always)]
    pub(super) fn spread_over(data: &'a [f32], steps: usize) -> Self {
        Self::starting_at(data, 0, data.len().div_ceil(CACHE_LINE * steps.max(1)))
    }
}

impl Prefetch for LinePrefetch<'_> {
    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.lines_per_step {
            prefetch(self.data, self.next);
            self.next += CACHE_LINE;
        }
    }
}

/// Requests the cache line of `values[index]`; `index` may be out of bounds.
#[inline(always)]
#[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
fn prefetch(values: &[f32], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint. It reads nothing that the program can observe and faults at no
        // address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(index).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}
