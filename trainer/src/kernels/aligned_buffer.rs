//! A reusable f32 buffer that starts at a cache line.

use std::ops::{Deref, DerefMut};

/// f32 values in a cache line: an AVX-512 load that crosses two lines costs two reads.
const CACHE_LINE: usize = 16;

/// Zero-initialized.
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub(super) fn zeros(len: usize) -> Self {
        let data = vec![0f32; len + CACHE_LINE];
        // The vector never grows, so the alignment of its start is final.
        let start = data.as_ptr().align_offset(CACHE_LINE * size_of::<f32>()).min(CACHE_LINE);
        Self { data, start, len }
    }

    /// Resizes to `len` elements of unspecified value.
    pub(super) fn with_len(&mut self, len: usize) -> &mut [f32] {
        if self.start + len > self.data.len() {
            *self = Self::zeros(len);
        }
        self.len = len;
        self
    }

    /// Resizes to `len` copies of `value`.
    pub(super) fn filled(&mut self, len: usize, value: f32) -> &mut [f32] {
        let all = self.with_len(len);
        all.fill(value);
        all
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_its_contents_when_resized() {
        let mut buffer = AlignedBuffer::default();
        for len in [3, 1000, 7, 5000] {
            buffer.filled(len, len as f32);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|v| *v == len as f32));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
    }
}
