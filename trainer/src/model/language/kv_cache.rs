//! Keys and values of what was already read.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};

/// The cache of one sequence: a preallocated key and value buffer per layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

/// Keys and values `[kv_heads, capacity, head_dim]` of one layer.
#[derive(Debug)]
pub(super) struct LayerCache {
    buffers: Option<Buffers>,
    capacity: usize,
    len: usize,
}

#[derive(Debug)]
enum Buffers {
    Own(Tensor, Tensor),
    /// Of another cache, copied when the first token is appended.
    Followed(Tensor, Tensor),
}

impl KvCache {
    pub(super) fn new(layers: usize, capacity: usize) -> Self {
        let layers = (0..layers).map(|_| LayerCache { buffers: None, capacity, len: 0 }).collect();
        Self { layers, len: 0 }
    }

    /// Tokens held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A cache that goes on after `prefix`, with room for `capacity` tokens in all: several sequences share one prefix
    /// that each of them keeps alive.
    #[must_use]
    pub fn follow(prefix: &Arc<Self>, capacity: usize) -> Self {
        let capacity = capacity.max(prefix.len);
        let layers = prefix.layers.iter().map(|layer| layer.follow(capacity)).collect();
        Self { layers, len: prefix.len }
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl LayerCache {
    fn follow(&self, capacity: usize) -> Self {
        let buffers = self.buffers.as_ref().map(|buffers| match buffers {
            Buffers::Own(keys, values) | Buffers::Followed(keys, values) => {
                Buffers::Followed(keys.clone(), values.clone())
            }
        });
        Self { buffers, capacity, len: self.len }
    }

    /// Appends `[kv_heads, tokens, head_dim]` and returns all that is held.
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> TensorResult<(Tensor, Tensor)> {
        let (heads, tokens, dim) = keys.dims3()?;
        if self.len + tokens > self.capacity {
            candle_core::bail!("a cache of {} tokens was given {}", self.capacity, self.len + tokens);
        }
        let shape = (heads, self.capacity, dim);
        let empty = || -> TensorResult<(Tensor, Tensor)> {
            Ok((
                Tensor::zeros(shape, keys.dtype(), keys.device())?,
                Tensor::zeros(shape, values.dtype(), values.device())?,
            ))
        };
        let (all_keys, all_values) = match self.buffers.take() {
            Some(Buffers::Own(keys, values)) => (keys, values),
            Some(Buffers::Followed(keys, values)) => {
                let own = empty()?;
                own.0.slice_set(&keys.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                own.1.slice_set(&values.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                own
            }
            None => empty()?,
        };
        all_keys.slice_set(&keys.contiguous()?, 1, self.len)?;
        all_values.slice_set(&values.contiguous()?, 1, self.len)?;
        self.len += tokens;
        let held = (all_keys.narrow(1, 0, self.len)?, all_values.narrow(1, 0, self.len)?);
        self.buffers = Some(Buffers::Own(all_keys, all_values));
        Ok(held)
    }
}
