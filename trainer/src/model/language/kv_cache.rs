//! Keys and values of what was already read.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};

use crate::kernels::attention::{self, Heads, Panels, Row, composed};
use crate::kernels::numbers::{takes, with_numbers};

/// The cache of one sequence.
#[derive(Debug)]
pub struct KvCache {
    /// What the sequence shares with others, before its own.
    prefix: Option<Arc<Self>>,
    layers: Vec<LayerCache>,
    /// Tokens of its own that it has room for.
    capacity: usize,
    /// Tokens of its own.
    len: usize,
}

/// One layer's part, made when the first token comes.
#[derive(Debug, Default)]
struct LayerCache(Option<Store>);

#[derive(Debug)]
enum Store {
    /// As the kernels read them.
    Panels(Panels),
    /// `[kv_heads, capacity, head_dim]`, where attention is composed.
    Tensors { keys: Tensor, values: Tensor, len: usize },
}

/// One layer of a cache and of what it follows.
pub(super) struct Slot<'a> {
    shared: Option<&'a LayerCache>,
    own: &'a mut LayerCache,
    capacity: usize,
}

impl KvCache {
    pub(super) fn new(layers: usize, capacity: usize) -> Self {
        let layers = (0..layers).map(|_| LayerCache::default()).collect();
        Self { prefix: None, layers, capacity, len: 0 }
    }

    /// Tokens held, those of a shared prefix among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.len()) + self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cache that goes on after `prefix`, with room for `capacity` tokens in all: several sequences share one prefix
    /// that each of them keeps alive and none copies. The prefix follows nothing itself.
    #[must_use]
    pub fn follow(prefix: &Arc<Self>, capacity: usize) -> Self {
        debug_assert!(prefix.prefix.is_none(), "a prefix of a prefix is not read");
        let own = capacity.saturating_sub(prefix.len());
        Self { prefix: Some(Arc::clone(prefix)), ..Self::new(prefix.layers.len(), own) }
    }

    pub(super) fn slot(&mut self, layer: usize) -> Slot<'_> {
        Slot {
            shared: self.prefix.as_ref().map(|prefix| &prefix.layers[layer]),
            own: &mut self.layers[layer],
            capacity: self.capacity,
        }
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// The queries, keys and values of some tokens, `[1, tokens, heads * head_dim]` each, positions in them.
pub(super) struct Projected {
    pub(super) queries: Tensor,
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

/// Tokens that follow what one sequence holds, to `[1, tokens, heads * head_dim]`.
pub(super) fn extend(
    slot: &mut Slot<'_>,
    heads: Heads,
    new: &Projected,
    window: Option<usize>,
) -> TensorResult<Tensor> {
    if !takes(&new.queries) {
        let (keys, values) = slot.append_tensors(heads, &new.keys, &new.values)?;
        return composed::extend(heads, &new.queries, (&keys, &values), window);
    }
    let out = with_numbers([&new.queries, &new.keys, &new.values], |[queries, keys, values]| {
        slot.append(heads, keys, values)?;
        let row = slot.row()?;
        Ok(attention::extend(heads, queries, row.shared, row.own, window))
    })?;
    Tensor::from_vec(out, new.queries.shape(), new.queries.device())
}

/// One token of each of several sequences, to `[1, rows, heads * head_dim]`.
pub(super) fn decode(
    slots: &mut [Slot<'_>],
    heads: Heads,
    new: &Projected,
    window: Option<usize>,
) -> TensorResult<Tensor> {
    if !takes(&new.queries) {
        let row_of = |tensor: &Tensor, row: usize| tensor.narrow(1, row, 1);
        let rows = slots
            .iter_mut()
            .enumerate()
            .map(|(row, slot)| {
                let (keys, values) =
                    slot.append_tensors(heads, &row_of(&new.keys, row)?, &row_of(&new.values, row)?)?;
                composed::extend(heads, &row_of(&new.queries, row)?, (&keys, &values), window)
            })
            .collect::<TensorResult<Vec<_>>>()?;
        return Tensor::cat(&rows, 1);
    }
    let width = heads.keys * heads.dim;
    let out = with_numbers([&new.queries, &new.keys, &new.values], |[queries, keys, values]| {
        for ((slot, keys), values) in
            slots.iter_mut().zip(keys.chunks_exact(width)).zip(values.chunks_exact(width))
        {
            slot.append(heads, keys, values)?;
        }
        let rows = slots.iter().map(Slot::row).collect::<TensorResult<Vec<_>>>()?;
        Ok(attention::decode(heads, queries, &rows, window))
    })?;
    Tensor::from_vec(out, new.queries.shape(), new.queries.device())
}

impl LayerCache {
    fn panels(&self) -> TensorResult<&Panels> {
        match &self.0 {
            Some(Store::Panels(panels)) => Ok(panels),
            _ => candle_core::bail!("a cache that was filled elsewhere was given to the CPU"),
        }
    }
}

impl Slot<'_> {
    /// Appends keys and values `[1, tokens, kv_heads * head_dim]`.
    pub(super) fn fill(&mut self, heads: Heads, keys: &Tensor, values: &Tensor) -> TensorResult<()> {
        if !takes(keys) {
            return self.append_tensors(heads, keys, values).map(|_| ());
        }
        with_numbers([keys, values], |[keys, values]| self.append(heads, keys, values))
    }

    /// Keys and values `[tokens, kv_heads, head_dim]`.
    fn append(&mut self, heads: Heads, keys: &[f32], values: &[f32]) -> TensorResult<()> {
        let store = self
            .own
            .0
            .get_or_insert_with(|| Store::Panels(Panels::new(heads.keys, heads.dim, self.capacity)));
        match store {
            Store::Panels(panels) => panels.push(keys, values),
            Store::Tensors { .. } => {
                candle_core::bail!("a cache that was filled elsewhere was given to the CPU")
            }
        }
    }

    fn row(&self) -> TensorResult<Row<'_>> {
        Ok(Row { shared: self.shared.map(LayerCache::panels).transpose()?, own: self.own.panels()? })
    }

    /// Appends and returns all that is held, `[kv_heads, tokens, head_dim]`.
    fn append_tensors(
        &mut self,
        heads: Heads,
        keys: &Tensor,
        values: &Tensor,
    ) -> TensorResult<(Tensor, Tensor)> {
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
            candle_core::bail!("a cache of {} tokens was given {}", self.capacity, len + tokens);
        }
        all_keys.slice_set(&keys, 1, len)?;
        all_values.slice_set(&values, 1, len)?;
        let len = len + tokens;
        let mut held = (all_keys.narrow(1, 0, len)?, all_values.narrow(1, 0, len)?);
        if let Some(Store::Tensors { keys, values, len }) = self.shared.and_then(|shared| shared.0.as_ref()) {
            held.0 = Tensor::cat(&[&keys.narrow(1, 0, *len)?, &held.0], 1)?;
            held.1 = Tensor::cat(&[&values.narrow(1, 0, *len)?, &held.1], 1)?;
        }
        self.own.0 = Some(Store::Tensors { keys: all_keys, values: all_values, len });
        Ok(held)
    }
}
