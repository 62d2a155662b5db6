//! Keys and values in blocks, in the order in which the kernels read them.

use rayon::prelude::*;

use super::super::aligned_buffer::AlignedBuffer;
use super::super::micro_kernel::RowMajor;

/// Keys of a block.
pub(super) const KEY_BLOCK: usize = 64;

/// Packed keys and values.
#[derive(Clone, Copy)]
pub(super) struct KvBlocks<'a> {
    /// `[kv_heads, blocks, dim, KEY_BLOCK]`, see [`pack_transposed`].
    pub(super) keys: &'a [f32],
    /// `[kv_heads, blocks, KEY_BLOCK, dim]`, see [`pack_rows`].
    pub(super) values: &'a [f32],
    pub(super) blocks: usize,
}

impl<'a> KvBlocks<'a> {
    /// The keys of a block, transposed: `[dim, KEY_BLOCK]`.
    #[inline(always)]
    pub(super) fn transposed_keys(&self, dim: usize, head: usize, block: usize) -> &'a [f32] {
        let size = dim * KEY_BLOCK;
        &self.keys[(head * self.blocks + block) * size..][..size]
    }

    /// The values of a block: `[KEY_BLOCK, dim]`.
    #[inline(always)]
    pub(super) fn values(&self, dim: usize, head: usize, block: usize) -> RowMajor<'a> {
        let size = KEY_BLOCK * dim;
        RowMajor { data: &self.values[(head * self.blocks + block) * size..][..size], stride: dim }
    }
}

/// `[keys, heads, dim]` to `[heads, blocks, dim, KEY_BLOCK]`: a block of keys as columns, so that scores need
/// no sums across a vector register. Padded with zeros.
pub(super) fn pack_transposed(rows: &[f32], heads: usize, dim: usize) -> AlignedBuffer {
    pack(rows, heads, dim, put_column)
}

/// `[keys, heads, dim]` to `[heads, blocks, KEY_BLOCK, dim]`, padded with zeros. Unpacked, the rows of one
/// head often lie a power of two apart and evict each other from the cache.
pub(super) fn pack_rows(rows: &[f32], heads: usize, dim: usize) -> AlignedBuffer {
    pack(rows, heads, dim, put_row)
}

/// Writes `row` as a column of a block `[dim, KEY_BLOCK]`.
pub(super) fn put_column(block: &mut [f32], column: usize, row: &[f32]) {
    for (d, value) in row.iter().enumerate() {
        block[d * KEY_BLOCK + column] = *value;
    }
}

/// Writes `row` as a row of a block `[KEY_BLOCK, dim]`.
pub(super) fn put_row(block: &mut [f32], index: usize, row: &[f32]) {
    block[index * row.len()..][..row.len()].copy_from_slice(row);
}

fn pack(
    rows: &[f32],
    heads: usize,
    dim: usize,
    put: impl Fn(&mut [f32], usize, &[f32]) + Send + Sync,
) -> AlignedBuffer {
    let width = heads * dim;
    let count = rows.len() / width.max(1);
    let blocks = count.div_ceil(KEY_BLOCK);
    let mut packed = AlignedBuffer::zeros(heads * blocks * dim * KEY_BLOCK);
    packed.par_chunks_mut(dim * KEY_BLOCK).enumerate().for_each(|(index, packed)| {
        let (head, first) = (index / blocks, index % blocks * KEY_BLOCK);
        for i in 0..KEY_BLOCK.min(count - first) {
            put(packed, i, &rows[(first + i) * width + head * dim..][..dim]);
        }
    });
    packed
}
