//! Queries in tiles, which the forward and the backward pass work on in parallel.

use super::spans::{KeyRange, Span};

/// Queries of a tile: each block of keys and values that is read into the cache is used by this many.
pub(super) const TILE_QUERIES: usize = 64;

/// At most [`TILE_QUERIES`] consecutive queries and the keys that they see.
pub(super) struct QueryTile {
    /// The first query.
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) keys: Vec<KeyRange>,
}

impl QueryTile {
    /// Cuts `len` queries from `start` on into tiles. `keys_from` gives what the queries from an index on
    /// see.
    pub(super) fn cut<K: IntoIterator<Item = KeyRange>>(
        start: usize,
        len: usize,
        keys_from: impl Fn(usize) -> K,
    ) -> impl Iterator<Item = Self> {
        (0..len).step_by(TILE_QUERIES).map(move |query| Self {
            start: start + query,
            len: TILE_QUERIES.min(len - query),
            keys: keys_from(query).into_iter().collect(),
        })
    }

    /// For the queries of `spans`, which follow each other.
    pub(super) fn of_spans(spans: &[Span], window: Option<usize>) -> Vec<Self> {
        spans
            .iter()
            .flat_map(|span| Self::cut(span.start, span.len, move |query| span.key_ranges(query, window)))
            .collect()
    }

    /// For `sequences` of `tokens` each, in which every token sees every token of its sequence.
    pub(super) fn bidirectional(sequences: usize, tokens: usize) -> Vec<Self> {
        (0..sequences)
            .flat_map(|sequence| {
                let first = sequence * tokens;
                Self::cut(first, tokens, move |_| [KeyRange::fixed(first..first + tokens, 0, None)])
            })
            .collect()
    }
}
