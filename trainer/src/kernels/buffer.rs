//! Numbers that begin with a line of the processor's cache.

use std::ops::{Deref, DerefMut};

/// A line in f32: a vector of AVX-512 that crosses two of them is read twice.
const LINE: usize = 16;

/// Zeros at first.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(crate) fn zeros(len: usize) -> Self {
        let data = vec![0f32; len + LINE];
        // It never grows, so that what is aligned stays so.
        let start = data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { data, start, len }
    }

    /// `len` numbers, whatever they are.
    pub(crate) fn with_len(&mut self, len: usize) -> &mut [f32] {
        if self.start + len > self.data.len() {
            *self = Self::zeros(len);
        }
        self.len = len;
        self
    }

    /// `len` times `value`.
    pub(crate) fn filled(&mut self, len: usize, value: f32) -> &mut [f32] {
        let all = self.with_len(len);
        all.fill(value);
        all
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_a_buffer_that_shrinks_and_grows_holds_what_it_is_given() {
        let mut buffer = Buffer::default();
        for len in [3, 1000, 7, 5000] {
            buffer.filled(len, len as f32);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|v| *v == len as f32));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
    }
}
