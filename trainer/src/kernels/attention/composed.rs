//! Attention composed of candle's operations: for GPUs and for bf16. It works on chunks of queries, so that
//! the scores of all of them never exist at once.

use candle_core::{D, DType, Result, Tensor};

use super::heads::Heads;
use super::spans::{KeyRange, Span};

/// Queries of a chunk.
const CHUNK_QUERIES: usize = 512;

/// [`super::attention`] for every device and type.
pub(super) fn attention(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    spans: &[Span],
    window: Option<usize>,
) -> Result<Tensor> {
    let (keys, values) = (by_head(keys, heads.keys)?, by_head(values, heads.keys)?);
    let mut chunks = Vec::new();
    for span in spans {
        for row in (0..span.len).step_by(CHUNK_QUERIES) {
            let rows = CHUNK_QUERIES.min(span.len - row);
            let ranges: Vec<KeyRange> = span.key_ranges(row, window).collect();
            // Keys of packed neighbours that no query of the chunk sees are left out.
            let bounds = KeyRange::bounds(&ranges, rows);
            let keys = keys.narrow(1, bounds.start, bounds.len())?;
            let values = values.narrow(1, bounds.start, bounds.len())?;
            let mask = mask(&ranges, rows, bounds);
            let queries = narrow_tokens(queries, span.start + row, rows)?;
            chunks.push(attend(heads, &queries, (&keys, &values), mask)?);
        }
    }
    Tensor::cat(&chunks, D::Minus2)
}

/// Causal attention of queries `[.., tokens, heads * dim]`, which belong to the last of the keys and values
/// `[kv_heads, keys, dim]`.
pub(crate) fn extend(
    heads: Heads,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    window: Option<usize>,
) -> Result<Tensor> {
    let tokens = queries.dim(D::Minus2)?;
    let before = keys.dim(1)? - tokens;
    let mut chunks = Vec::new();
    for row in (0..tokens).step_by(CHUNK_QUERIES) {
        let rows = CHUNK_QUERIES.min(tokens - row);
        let range = KeyRange::causal_from_zero(before + row, window);
        let end = before + row + rows;
        let mask = if rows == 1 && window.is_none() { None } else { mask(&[range], rows, 0..end) };
        let (keys, values) = (keys.narrow(1, 0, end)?, values.narrow(1, 0, end)?);
        chunks.push(attend(heads, &narrow_tokens(queries, row, rows)?, (&keys, &values), mask)?);
    }
    Tensor::cat(&chunks, D::Minus2)
}

/// Queries, keys and values `[tokens, heads * dim]`; every token sees every token.
pub(super) fn bidirectional(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
) -> Result<Tensor> {
    attend(heads, queries, (&by_head(keys, heads.keys)?, &by_head(values, heads.keys)?), None)
}

fn narrow_tokens(xs: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    xs.narrow(D::Minus2, start, len)
}

/// `[.., tokens, heads * dim]` to `[heads, tokens, dim]`.
pub(crate) fn by_head(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    let tokens = xs.elem_count() / width;
    xs.reshape((tokens, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

/// `[rows, keys]`: 0 where a row sees a key of `keys`, -inf where not; `None` where every row sees every key.
fn mask(ranges: &[KeyRange], rows: usize, keys: std::ops::Range<usize>) -> Option<Vec<f32>> {
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

fn attend(
    heads: Heads,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    mask: Option<Vec<f32>>,
) -> Result<Tensor> {
    let (tokens, count) = (queries.dim(D::Minus2)?, keys.dim(1)?);
    // Heads that share a key head are adjacent, so a group is one matrix and keys need not be repeated.
    let grouped = (heads.keys, heads.group() * tokens);
    let queries_by_head = by_head(queries, heads.queries)?.reshape((grouped.0, grouped.1, heads.dim))?;
    // As in transformers, the softmax is in f32 whatever the type of the scores.
    let scores = queries_by_head.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
    let mut wide = (scores * f64::from(heads.scale()))?.reshape((heads.queries, tokens, count))?;
    if let Some(mask) = mask {
        wide = wide.broadcast_add(&Tensor::from_vec(mask, (tokens, count), queries.device())?)?;
    }
    let weights = candle_nn::ops::softmax(&wide, D::Minus1)?.to_dtype(queries.dtype())?;
    let mixed = weights.reshape((grouped.0, grouped.1, count))?.matmul(&values.contiguous()?)?;
    mixed.reshape((heads.queries, tokens, heads.dim))?.transpose(0, 1)?.reshape(queries.shape())
}
