//! Keys and values of what was already read.

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
    buffers: Option<(Tensor, Tensor)>,
    capacity: usize,
    len: usize,
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

    /// A copy that goes on by itself, with room for `capacity` tokens in all: several prompts share one prefix.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn fork(&self, capacity: usize) -> TensorResult<Self> {
        let mut fork = Self::new(self.layers.len(), capacity.max(self.len));
        for (to, from) in fork.layers.iter_mut().zip(&self.layers) {
            if let Some((keys, values)) = from.held()? {
                to.append(&keys, &values)?;
            }
        }
        fork.len = self.len;
        Ok(fork)
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl LayerCache {
    fn held(&self) -> TensorResult<Option<(Tensor, Tensor)>> {
        let Some((keys, values)) = &self.buffers else { return Ok(None) };
        Ok(Some((keys.narrow(1, 0, self.len)?, values.narrow(1, 0, self.len)?)))
    }

    /// Appends `[kv_heads, tokens, head_dim]` and returns all that is held.
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> TensorResult<(Tensor, Tensor)> {
        let (heads, tokens, dim) = keys.dims3()?;
        if self.len + tokens > self.capacity {
            candle_core::bail!("a cache of {} tokens was given {}", self.capacity, self.len + tokens);
        }
        if self.buffers.is_none() {
            let shape = (heads, self.capacity, dim);
            self.buffers = Some((
                Tensor::zeros(shape, keys.dtype(), keys.device())?,
                Tensor::zeros(shape, values.dtype(), values.device())?,
            ));
        }
        if let Some((all_keys, all_values)) = &self.buffers {
            all_keys.slice_set(&keys.contiguous()?, 1, self.len)?;
            all_values.slice_set(&values.contiguous()?, 1, self.len)?;
        }
        self.len += tokens;
        match self.held()? {
            Some(held) => Ok(held),
            None => candle_core::bail!("the cache lost its buffers"),
        }
    }
}
