//! Attention composed of the tensor library's operations: for a GPU, and for bf16. Queries go in chunks, so that the
//! scores of all never exist at once.

use candle_core::{D, DType, Result, Tensor};

use super::Heads;
use super::spans::{Part, Span};

/// Queries of a chunk.
const QUERIES: usize = 512;

/// As [`super::attention`].
pub(crate) fn attention(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    spans: &[Span],
    window: Option<usize>,
) -> Result<Tensor> {
    let (keys, values) = (by_head(keys, heads.keys)?, by_head(values, heads.keys)?);
    let mut chunks = Vec::new();
    for span in spans {
        for row in (0..span.len).step_by(QUERIES) {
            let rows = QUERIES.min(span.len - row);
            let parts: Vec<Part> = span.parts(row, window).collect();
            // Only from the first key that is seen to the last: a packed neighbour is never multiplied.
            let (first, end) = Part::bounds(&parts, rows);
            let seen = (keys.narrow(1, first, end - first)?, values.narrow(1, first, end - first)?);
            let mask = mask(&parts, rows, first..end);
            let queries = narrow_tokens(queries, span.start + row, rows)?;
            chunks.push(attend(heads, &queries, (&seen.0, &seen.1), mask)?);
        }
    }
    Tensor::cat(&chunks, D::Minus2)
}

/// Queries `[.., tokens, heads * dim]`, the last tokens of keys and values `[kv_heads, keys, dim]`.
pub(crate) fn extend(
    heads: Heads,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    window: Option<usize>,
) -> Result<Tensor> {
    let tokens = queries.dim(D::Minus2)?;
    let before = keys.dim(1)? - tokens;
    let mut chunks = Vec::new();
    for row in (0..tokens).step_by(QUERIES) {
        let rows = QUERIES.min(tokens - row);
        let part = Part::continued(before + row, window);
        let end = before + row + rows;
        let mask = if rows == 1 && window.is_none() { None } else { mask(&[part], rows, 0..end) };
        let seen = (keys.narrow(1, 0, end)?, values.narrow(1, 0, end)?);
        chunks.push(attend(heads, &narrow_tokens(queries, row, rows)?, (&seen.0, &seen.1), mask)?);
    }
    Tensor::cat(&chunks, D::Minus2)
}

/// Queries, keys and values `[tokens, heads * dim]`, every token seeing every one.
pub(crate) fn everyone(heads: Heads, (queries, keys, values): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
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

/// 0 where row i of the parts sees a key of `keys`, -inf where not; `None` where every row sees every key.
fn mask(parts: &[Part], rows: usize, keys: std::ops::Range<usize>) -> Option<Vec<f32>> {
    let width = keys.len();
    let mut mask = vec![f32::NEG_INFINITY; rows * width];
    for (row, mask) in mask.chunks_exact_mut(width).enumerate() {
        for part in parts {
            let seen = part.seen_by(row);
            if seen.start < seen.end {
                mask[seen.start - keys.start..seen.end - keys.start].fill(0.0);
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
    // Heads that share a key head lie side by side, so a group is one matrix and keys are never repeated.
    let grouped = (heads.keys, heads.queries / heads.keys * tokens);
    let queries_by_head = by_head(queries, heads.queries)?.reshape((grouped.0, grouped.1, heads.dim))?;
    let scores = (queries_by_head.matmul(&keys.t()?)? * f64::from(heads.scale()))?;
    // transformers' softmax is in f32 whatever the scores are in.
    let mut wide = scores.to_dtype(DType::F32)?.reshape((heads.queries, tokens, count))?;
    if let Some(mask) = mask {
        wide = wide.broadcast_add(&Tensor::from_vec(mask, (tokens, count), queries.device())?)?;
    }
    let shares = candle_nn::ops::softmax(&wide, D::Minus1)?.to_dtype(queries.dtype())?;
    let mixed = shares.reshape((grouped.0, grouped.1, count))?.matmul(&values.contiguous()?)?;
    mixed.reshape((heads.queries, tokens, heads.dim))?.transpose(0, 1)?.reshape(queries.shape())
}
