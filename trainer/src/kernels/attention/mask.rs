//! Which keys each token of a pass sees.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor};

use super::spans::{KeyRange, Span};

/// Queries of a chunk of composed attention.
pub(crate) const CHUNK_QUERIES: usize = 256;

/// What the tokens of a pass see. It is the same for all layers.
#[derive(Debug)]
pub struct Mask {
    spans: Vec<Span>,
    window: Option<usize>,
    /// For composed attention, built by the first layer.
    chunks: OnceLock<Arc<[QueryChunk]>>,
}

/// Consecutive queries of a span.
#[derive(Debug)]
pub(super) struct QueryChunk {
    pub(super) start: usize,
    pub(super) rows: usize,
    /// The keys that any of them sees. Those of packed neighbours, which none sees, are left out.
    pub(super) keys: Range<usize>,
    /// `[rows, keys]`: 0 where a row sees a key and -inf where not; `None` where every row sees every key.
    pub(super) hidden: Option<Tensor>,
}

impl Mask {
    /// The mask of `spans`, which follow each other and cover all tokens. A token also sees only those keys whose position
    /// is less than `window` before its own.
    #[must_use]
    pub const fn new(spans: Vec<Span>, window: Option<usize>) -> Self {
        Self { spans, window, chunks: OnceLock::new() }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The sliding window, in tokens.
    #[must_use]
    pub const fn window(&self) -> Option<usize> {
        self.window
    }

    /// The chunks of all queries, with their masks on `device`.
    pub(super) fn chunks(&self, device: &Device) -> Result<Arc<[QueryChunk]>> {
        if let Some(chunks) = self.chunks.get() {
            return Ok(Arc::clone(chunks));
        }
        let mut chunks = Vec::new();
        for span in &self.spans {
            for row in (0..span.len).step_by(CHUNK_QUERIES) {
                let rows = CHUNK_QUERIES.min(span.len - row);
                let ranges: Vec<KeyRange> = span.key_ranges(row, self.window).collect();
                let keys = KeyRange::bounds(&ranges, rows);
                let hidden = hidden_keys(&ranges, rows, keys.clone())
                    .map(|mask| Tensor::from_vec(mask, (rows, keys.len()), device))
                    .transpose()?;
                chunks.push(QueryChunk { start: span.start + row, rows, keys, hidden });
            }
        }
        Ok(Arc::clone(self.chunks.get_or_init(|| chunks.into())))
    }
}

fn hidden_keys(ranges: &[KeyRange], rows: usize, keys: Range<usize>) -> Option<Vec<f32>> {
    let width = keys.len();
    let mut mask = vec![f32::NEG_INFINITY; rows * width];
    for (row, mask) in mask.chunks_exact_mut(width).enumerate() {
        for range in ranges {
            let visible = range.visible_to(row);
            if visible.start < visible.end {
                mask[visible.start - keys.start..visible.end - keys.start].fill(0.0);
            }
        }
    }
    mask.iter().any(|v| *v != 0.0).then_some(mask)
}
