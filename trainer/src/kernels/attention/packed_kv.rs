//! The part of the KV cache that the kernels own: one layer of one sequence, packed as they read it.

use rayon::prelude::*;

use super::super::aligned_buffer::AlignedBuffer;
use super::packing::{KEY_BLOCK, KvBlocks, put_column, put_row};

/// The keys and values of one layer of one sequence.
#[derive(Debug)]
pub struct PackedKv {
    kv_heads: usize,
    dim: usize,
    blocks: usize,
    /// `[kv_heads, blocks, dim, KEY_BLOCK]`.
    keys: AlignedBuffer,
    /// `[kv_heads, blocks, KEY_BLOCK, dim]`.
    values: AlignedBuffer,
    len: usize,
}

impl PackedKv {
    /// An empty cache with room for `capacity` tokens.
    #[must_use]
    pub fn new(kv_heads: usize, dim: usize, capacity: usize) -> Self {
        let blocks = capacity.div_ceil(KEY_BLOCK);
        let size = kv_heads * blocks * KEY_BLOCK * dim;
        let [keys, values] = [AlignedBuffer::zeros(size), AlignedBuffer::zeros(size)];
        Self { kv_heads, dim, blocks, keys, values, len: 0 }
    }

    /// The number of tokens.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Appends keys and values `[tokens, kv_heads, dim]`.
    ///
    /// # Errors
    /// Where there is no room for them.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) -> candle_core::Result<()> {
        let width = self.kv_heads * self.dim;
        let tokens = keys.len() / width;
        let capacity = self.blocks * KEY_BLOCK;
        if self.len + tokens > capacity {
            candle_core::bail!("a KV cache for {capacity} tokens was given {}", self.len + tokens);
        }
        let (len, dim, size) = (self.len, self.dim, capacity * self.dim);
        let append = |(head, (own_keys, own_values)): (usize, (&mut [f32], &mut [f32]))| {
            for token in 0..tokens {
                let from = token * width + head * dim;
                let (block, index) = ((len + token) / KEY_BLOCK, (len + token) % KEY_BLOCK);
                put_column(&mut own_keys[block * dim * KEY_BLOCK..], index, &keys[from..from + dim]);
                put_row(&mut own_values[block * KEY_BLOCK * dim..], index, &values[from..from + dim]);
            }
        };
        if tokens > KEY_BLOCK {
            self.keys.par_chunks_mut(size).zip(self.values.par_chunks_mut(size)).enumerate().for_each(append);
        } else {
            self.keys.chunks_mut(size).zip(self.values.chunks_mut(size)).enumerate().for_each(append);
        }
        self.len += tokens;
        Ok(())
    }

    pub(super) fn blocks(&self) -> KvBlocks<'_> {
        KvBlocks { keys: &self.keys, values: &self.values, blocks: self.blocks }
    }
}
