//! Memory that is asked for before it is read: a loop that reads more than it computes waits for it else.

/// Numbers in a line of the cache.
const LINE: usize = 16;

/// What a loop does beside each of its steps.
pub(super) trait Ahead {
    /// Of a step.
    fn step(&mut self);
}

/// Nothing: what the loop reads is in the cache.
pub(super) struct Nothing;

impl Ahead for Nothing {
    #[inline(always)]
    fn step(&mut self) {}
}

/// Asks for one line after another.
pub(super) struct Lines<'a> {
    of: &'a [f32],
    /// The first number that is not asked for yet.
    next: usize,
    per_step: usize,
}

impl<'a> Lines<'a> {
    /// Lines of `of` from number `first` on, so many in each step.
    #[inline(always)]
    pub(super) const fn from(of: &'a [f32], first: usize, per_step: usize) -> Self {
        Self { of, next: first, per_step }
    }

    /// All of `of`, within so many steps.
    #[inline(always)]
    pub(super) fn all(of: &'a [f32], steps: usize) -> Self {
        Self::from(of, 0, of.len().div_ceil(LINE * steps.max(1)))
    }
}

impl Ahead for Lines<'_> {
    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.per_step {
            prefetch(self.of, self.next);
            self.next += LINE;
        }
    }
}

/// Asks for an element that is needed soon; it need not exist.
#[inline(always)]
#[expect(unsafe_code, reason = "the processor's hint takes a pointer")]
fn prefetch(values: &[f32], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing as far as the program can tell, and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(index).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}
