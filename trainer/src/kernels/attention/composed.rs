//! Attention composed of candle's operations: for GPUs and for bf16. It works on chunks of queries, so that the scores of all
//! of them never exist at once, and keeps no scores for the backward pass.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};

use super::super::composed_op::composed_op3;
use super::heads::Heads;
use super::mask::{Mask, QueryChunk};

/// [`super::attention`] for every device and type.
pub(super) fn attention(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    mask: &Mask,
) -> Result<Tensor> {
    let chunks = mask.chunks(queries.device())?;
    let of_backward = Arc::clone(&chunks);
    composed_op3(
        "attention",
        [queries, keys, values],
        |[queries, keys, values]| {
            attend_in_chunks(
                heads,
                queries,
                (&by_head(keys, heads.keys)?, &by_head(values, heads.keys)?),
                &chunks,
            )
        },
        move |inputs, d_out| backward(heads, inputs, &of_backward, d_out),
    )
}

/// Attention of queries `[.., tokens, heads * dim]`, which belong to the last of the keys and values
/// `[kv_heads, keys, dim]`.
pub(crate) fn extend(
    heads: Heads,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    mask: &Mask,
) -> Result<Tensor> {
    attend_in_chunks(heads, queries, (keys, values), &mask.chunks(queries.device())?)
}

/// Attention of one query `[.., 1, heads * dim]` over the parts of its sequence: keys and values `[kv_heads, keys, dim]`, in
/// order. The query belongs to the last key.
pub(crate) fn decode(
    heads: Heads,
    query: &Tensor,
    parts: &[(Tensor, Tensor)],
    window: Option<usize>,
) -> Result<Tensor> {
    let lengths = parts.iter().map(|(keys, _)| keys.dim(1)).collect::<Result<Vec<_>>>()?;
    let unseen = window.map_or(0, |window| lengths.iter().sum::<usize>().saturating_sub(window));
    let mut before = 0;
    let mut seen = Vec::with_capacity(parts.len());
    for ((keys, values), len) in parts.iter().zip(lengths) {
        let skip = unseen.saturating_sub(before).min(len);
        before += len;
        if skip < len {
            seen.push((keys.narrow(1, skip, len - skip)?, values.narrow(1, skip, len - skip)?));
        }
    }
    let grouped = grouped_by_head(query, heads)?;
    // Only scores are joined: a copy of the keys would be a copy of the whole cache.
    let scores = seen.iter().map(|(keys, _)| scores(heads, &grouped, keys)).collect::<Result<Vec<_>>>()?;
    let weights = candle_nn::ops::softmax_last_dim(&Tensor::cat(&scores, D::Minus1)?)?;
    let mut start = 0;
    let mut mixed: Option<Tensor> = None;
    for (_, values) in &seen {
        let len = values.dim(1)?;
        let weights = weights.narrow(D::Minus1, start, len)?.to_dtype(query.dtype())?.contiguous()?;
        start += len;
        let part = weights.matmul(values)?.to_dtype(DType::F32)?;
        mixed = Some(mixed.map_or(Ok(part.clone()), |sum| sum + part)?);
    }
    let mixed = mixed.ok_or_else(|| candle_core::Error::Msg("a query that sees no key".into()))?;
    by_token(&mixed.to_dtype(query.dtype())?, heads, query)
}

/// Queries, keys and values `[tokens, heads * dim]`; every token sees every token.
pub(super) fn bidirectional(
    heads: Heads,
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
) -> Result<Tensor> {
    let (keys, values) = (by_head(keys, heads.keys)?, by_head(values, heads.keys)?);
    let (keys_seen, rows) = (keys.dim(1)?, queries.dim(D::Minus2)?);
    let chunk = QueryChunk { start: 0, rows, keys: 0..keys_seen, hidden: None };
    attend_in_chunks(heads, queries, (&keys, &values), &[chunk])
}

/// `[.., tokens, heads * dim]` to `[heads, tokens, dim]`.
pub(crate) fn by_head(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    let tokens = xs.elem_count() / width;
    xs.reshape((tokens, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

/// `[.., tokens, heads * dim]` to `[kv_heads, group * tokens, dim]`. Heads that share a key head are adjacent, so a group is one
/// matrix and keys need not be repeated.
fn grouped_by_head(xs: &Tensor, heads: Heads) -> Result<Tensor> {
    by_head(xs, heads.queries)?.reshape((heads.keys, (), heads.dim))
}

/// The inverse of [`grouped_by_head`], to the shape of `like`.
fn by_token(xs: &Tensor, heads: Heads, like: &Tensor) -> Result<Tensor> {
    xs.reshape((heads.queries, (), heads.dim))?.transpose(0, 1)?.reshape(like.shape())
}

fn attend_in_chunks(
    heads: Heads,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    chunks: &[QueryChunk],
) -> Result<Tensor> {
    let parts = chunks.iter().map(|chunk| {
        let queries = queries.narrow(D::Minus2, chunk.start, chunk.rows)?;
        let (keys, values) = (chunk.seen(keys)?, chunk.seen(values)?);
        let weights = chunk.weights(heads, &grouped_by_head(&queries, heads)?, &keys)?;
        by_token(&weights.to_dtype(queries.dtype())?.matmul(&values)?, heads, &queries)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    if let [only] = parts.as_slice() { Ok(only.clone()) } else { Tensor::cat(&parts, D::Minus2) }
}

/// The gradients of queries, keys and values. Products are in the type of the inputs; sums over chunks are in f32.
fn backward(
    heads: Heads,
    [queries, keys, values]: [&Tensor; 3],
    chunks: &[QueryChunk],
    d_out: &Tensor,
) -> Result<[Tensor; 3]> {
    let dtype = queries.dtype();
    let (keys_by_head, values_by_head) = (by_head(keys, heads.keys)?, by_head(values, heads.keys)?);
    let zeros = || Tensor::zeros(keys_by_head.shape(), DType::F32, keys.device());
    let (d_keys, d_values) = (zeros()?, zeros()?);
    let mut d_queries = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let rows = |xs: &Tensor| grouped_by_head(&xs.narrow(D::Minus2, chunk.start, chunk.rows)?, heads);
        let (queries, d_out) = (rows(queries)?, rows(d_out)?);
        let (keys, values) = (chunk.seen(&keys_by_head)?, chunk.seen(&values_by_head)?);
        let weights = chunk.weights(heads, &queries, &keys)?;
        chunk.add_to(&d_values, &weights.to_dtype(dtype)?.t()?.matmul(&d_out)?)?;
        let d_scores = {
            let d_weights = d_out.matmul(&values.t()?)?.to_dtype(DType::F32)?;
            let along = (&weights * &d_weights)?.sum_keepdim(D::Minus1)?;
            (weights * d_weights.broadcast_sub(&along)?)?
        };
        let d_scores = (d_scores * f64::from(heads.scale()))?.to_dtype(dtype)?;
        chunk.add_to(&d_keys, &d_scores.t()?.matmul(&queries)?)?;
        let d_rows = d_scores.matmul(&keys)?.reshape((heads.queries, chunk.rows, heads.dim))?;
        d_queries.push(d_rows.transpose(0, 1)?.reshape((chunk.rows, heads.queries * heads.dim))?);
    }
    let flat = |d: &Tensor, like: &Tensor| d.transpose(0, 1)?.reshape(like.shape())?.to_dtype(dtype);
    Ok([
        Tensor::cat(&d_queries, 0)?.reshape(queries.shape())?,
        flat(&d_keys, keys)?,
        flat(&d_values, values)?,
    ])
}

/// `[kv_heads, rows, keys]` in f32 of queries `[kv_heads, rows, dim]`.
fn scores(heads: Heads, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    queries.matmul(&keys.t()?)?.to_dtype(DType::F32)? * f64::from(heads.scale())
}

impl QueryChunk {
    /// The keys or values that the chunk sees, of `[kv_heads, keys, dim]`.
    fn seen(&self, xs: &Tensor) -> Result<Tensor> {
        xs.narrow(1, self.keys.start, self.keys.len())
    }

    /// Adds `part`, of the keys that the chunk sees, to `sum` `[kv_heads, keys, dim]`, which is in f32.
    fn add_to(&self, sum: &Tensor, part: &Tensor) -> Result<()> {
        sum.slice_set(&(self.seen(sum)? + part.to_dtype(DType::F32)?)?, 1, self.keys.start)
    }

    /// The attention weights `[kv_heads, group * rows, keys]` in f32. As in transformers, the softmax is in f32 whatever the
    /// type of the scores.
    fn weights(&self, heads: Heads, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let mut scores = scores(heads, queries, keys)?;
        if let Some(hidden) = &self.hidden {
            let by_row = scores.reshape((heads.queries, self.rows, self.keys.len()))?;
            scores = by_row.broadcast_add(hidden)?.reshape(scores.shape())?;
        }
        candle_nn::ops::softmax_last_dim(&scores)
    }
}
