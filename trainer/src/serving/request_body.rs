//! The body of a request, within limits of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::StreamExt as _;

use super::api_error::ApiError;

/// A photo of 20 megapixels as PNG in base64.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;
/// A client that gets its answer while it still sends loses the answer, so that a body that is not wanted is read and
/// discarded, but not endlessly.
const MAX_DISCARDED_BYTES: usize = 4 * MAX_BODY_BYTES;
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Reads the whole body.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    within_time(for_each_chunk(body, |chunk, total| {
        if total <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        } else {
            bytes = Vec::new();
        }
    }))
    .await
    .and_then(|total| {
        if total > MAX_BODY_BYTES { Err(ApiError::too_large(MAX_BODY_BYTES)) } else { Ok(()) }
    })?;
    Ok(bytes)
}

/// Reads the body and forgets it.
pub(super) async fn discard(body: Body) {
    // The request is refused anyway.
    let _ = within_time(for_each_chunk(body, |_, _| {})).await;
}

async fn within_time(read: impl Future<Output = Result<usize, ApiError>>) -> Result<usize, ApiError> {
    tokio::time::timeout(TIME_LIMIT, read)
        .await
        .unwrap_or_else(|_| Err(ApiError::too_slow(TIME_LIMIT.as_secs())))
}

/// Calls `take` with each chunk and the number of bytes so far, and returns the number of bytes in all.
async fn for_each_chunk(body: Body, mut take: impl FnMut(Bytes, usize)) -> Result<usize, ApiError> {
    let (mut chunks, mut total) = (body.into_data_stream(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::malformed(format!("the body broke off: {error}")))?;
        total += chunk.len();
        take(chunk, total);
        if total > MAX_DISCARDED_BYTES {
            break;
        }
    }
    Ok(total)
}
