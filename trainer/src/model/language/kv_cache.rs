//! The KV cache: keys and values of the tokens that were already processed.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};

use crate::kernels::attention::{self, DecodeRow, Heads, Mask, PackedKv, composed};
use crate::kernels::storage::{is_supported, with_f32_slices};

/// The cache of one sequence.
#[derive(Debug)]
pub struct KvCache {
    /// The tokens that the sequence shares with others, before its own.
    prefix: Option<Arc<Self>>,
    layers: Vec<LayerCache>,
    /// The most tokens of its own.
    capacity: usize,
    /// The number of tokens of its own.
    len: usize,
}

/// The cache of one layer, allocated with its first token.
#[derive(Debug, Default)]
struct LayerCache(Option<Store>);

#[derive(Debug)]
enum Store {
    /// As the kernels read them.
    Packed(PackedKv),
    /// `[kv_heads, capacity, head_dim]`, where attention is composed.
    Tensors { keys: Tensor, values: Tensor, len: usize },
}

/// One layer of a cache and of its shared prefix.
pub(super) struct CachedLayer<'a> {
    shared: Option<&'a LayerCache>,
    own: &'a mut LayerCache,
    capacity: usize,
}

impl KvCache {
    pub(super) fn new(layers: usize, capacity: usize) -> Self {
        let layers = (0..layers).map(|_| LayerCache::default()).collect();
        Self { prefix: None, layers, capacity, len: 0 }
    }

    /// The number of tokens, those of a shared prefix included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.len()) + self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cache that continues `prefix`, with room for `capacity` tokens, those of the prefix included. Several sequences
    /// share a prefix without a copy. The prefix must not have a prefix itself.
    #[must_use]
    pub fn follow(prefix: &Arc<Self>, capacity: usize) -> Self {
        debug_assert!(prefix.prefix.is_none(), "a prefix of a prefix is not supported");
        let own = capacity.saturating_sub(prefix.len());
        Self { prefix: Some(Arc::clone(prefix)), ..Self::new(prefix.layers.len(), own) }
    }

    pub(super) fn layer(&mut self, layer: usize) -> CachedLayer<'_> {
        CachedLayer {
            shared: self.prefix.as_ref().map(|prefix| &prefix.layers[layer]),
            own: &mut self.layers[layer],
            capacity: self.capacity,
        }
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// The queries, keys and values of some tokens, `[1, tokens, heads * head_dim]` each, after rotation.
pub(super) struct Projected {
    pub(super) queries: Tensor,
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

/// Attention of tokens that continue one sequence, `[1, tokens, heads * head_dim]`.
pub(super) fn extend(
    layer: &mut CachedLayer<'_>,
    heads: Heads,
    new: &Projected,
    mask: &Mask,
) -> TensorResult<Tensor> {
    if !is_supported(&new.queries) {
        layer.append_tensors(heads, &new.keys, &new.values)?;
        let (keys, values): (Vec<_>, Vec<_>) = layer.tensors()?.into_iter().unzip();
        let (keys, values) = (joined(keys)?, joined(values)?);
        return composed::extend(heads, &new.queries, (&keys, &values), mask);
    }
    let out = with_f32_slices([&new.queries, &new.keys, &new.values], |[queries, keys, values]| {
        layer.append(heads, keys, values)?;
        let row = layer.row()?;
        Ok(attention::extend(heads, queries, row.shared, row.own, mask.window()))
    })?;
    Tensor::from_vec(out, new.queries.shape(), new.queries.device())
}

/// Attention of one token of each of several sequences, `[1, rows, heads * head_dim]`.
pub(super) fn decode(
    layers: &mut [CachedLayer<'_>],
    heads: Heads,
    new: &Projected,
    window: Option<usize>,
) -> TensorResult<Tensor> {
    if !is_supported(&new.queries) {
        let row_of = |tensor: &Tensor, row: usize| tensor.narrow(1, row, 1);
        let rows = layers
            .iter_mut()
            .enumerate()
            .map(|(row, layer)| {
                layer.append_tensors(heads, &row_of(&new.keys, row)?, &row_of(&new.values, row)?)?;
                composed::decode(heads, &row_of(&new.queries, row)?, &layer.tensors()?, window)
            })
            .collect::<TensorResult<Vec<_>>>()?;
        return Tensor::cat(&rows, 1);
    }
    let width = heads.keys * heads.dim;
    let out = with_f32_slices([&new.queries, &new.keys, &new.values], |[queries, keys, values]| {
        for ((layer, keys), values) in
            layers.iter_mut().zip(keys.chunks_exact(width)).zip(values.chunks_exact(width))
        {
            layer.append(heads, keys, values)?;
        }
        let rows = layers.iter().map(CachedLayer::row).collect::<TensorResult<Vec<_>>>()?;
        Ok(attention::decode(heads, queries, &rows, window))
    })?;
    Tensor::from_vec(out, new.queries.shape(), new.queries.device())
}

impl LayerCache {
    fn panels(&self) -> TensorResult<&PackedKv> {
        match &self.0 {
            Some(Store::Packed(panels)) => Ok(panels),
            _ => candle_core::bail!("a cache that was filled elsewhere was given to the CPU"),
        }
    }
}

impl CachedLayer<'_> {
    /// Appends keys and values `[1, tokens, kv_heads * head_dim]`.
    pub(super) fn fill(&mut self, heads: Heads, keys: &Tensor, values: &Tensor) -> TensorResult<()> {
        if !is_supported(keys) {
            return self.append_tensors(heads, keys, values);
        }
        with_f32_slices([keys, values], |[keys, values]| self.append(heads, keys, values))
    }

    /// Appends keys and values `[tokens, kv_heads, head_dim]`.
    fn append(&mut self, heads: Heads, keys: &[f32], values: &[f32]) -> TensorResult<()> {
        let store = self
            .own
            .0
            .get_or_insert_with(|| Store::Packed(PackedKv::new(heads.keys, heads.dim, self.capacity)));
        match store {
            Store::Packed(panels) => panels.append(keys, values),
            Store::Tensors { .. } => {
                candle_core::bail!("a cache that another device filled cannot be read on the CPU")
            }
        }
    }

    fn row(&self) -> TensorResult<DecodeRow<'_>> {
        Ok(DecodeRow { shared: self.shared.map(LayerCache::panels).transpose()?, own: self.own.panels()? })
    }

    /// Appends keys and values `[1, tokens, kv_heads * head_dim]`.
    fn append_tensors(&mut self, heads: Heads, keys: &Tensor, values: &Tensor) -> TensorResult<()> {
        let (keys, values) = (composed::by_head(keys, heads.keys)?, composed::by_head(values, heads.keys)?);
        let tokens = keys.dim(1)?;
        let (all_keys, all_values, len) = match self.own.0.take() {
            Some(Store::Tensors { keys, values, len }) => (keys, values, len),
            _ => {
                let shape = (heads.keys, self.capacity, heads.dim);
                let empty = || Tensor::zeros(shape, keys.dtype(), keys.device());
                (empty()?, empty()?, 0)
            }
        };
        if len + tokens > self.capacity {
            candle_core::bail!("a cache with room for {} tokens was given {}", self.capacity, len + tokens);
        }
        all_keys.slice_set(&keys, 1, len)?;
        all_values.slice_set(&values, 1, len)?;
        self.own.0 = Some(Store::Tensors { keys: all_keys, values: all_values, len: len + tokens });
        Ok(())
    }

    /// Keys and values `[kv_heads, tokens, head_dim]` of the shared prefix, if there is one, and of the sequence's own tokens.
    fn tensors(&self) -> TensorResult<Vec<(Tensor, Tensor)>> {
        let stores = self.shared.into_iter().chain([&*self.own]);
        let filled = stores.filter_map(|layer| match &layer.0 {
            Some(Store::Tensors { keys, values, len }) => Some((keys, values, *len)),
            _ => None,
        });
        filled.map(|(keys, values, len)| Ok((keys.narrow(1, 0, len)?, values.narrow(1, 0, len)?))).collect()
    }
}

/// Parts `[kv_heads, tokens, head_dim]` one after the other.
fn joined(mut parts: Vec<Tensor>) -> TensorResult<Tensor> {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => Tensor::cat(&[parts, vec![last]].concat(), 1),
        (None, _) => candle_core::bail!("a cache without keys"),
    }
}
