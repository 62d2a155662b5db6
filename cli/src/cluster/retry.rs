//! Retries of requests while the API server is away.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::stdio::print_stderr;

/// The time between two polls of the API server.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the API server may be away, for example for an upgrade.
const MAX_OUTAGE: Duration = Duration::from_secs(300);

/// Repeats `request` while its failure is transient, for at most five minutes.
pub(super) async fn retry<T, F: Future<Output = Result<T>>>(mut request: impl FnMut() -> F) -> Result<T> {
    let mut outage = None;
    loop {
        let failure = match request().await {
            Err(failure) if failure.is_transient => failure,
            result => return result,
        };
        let since = *outage.get_or_insert_with(|| {
            print_stderr(format_args!("{} Retrying.", failure.message.as_deref().unwrap_or_default()));
            Instant::now()
        });
        if since.elapsed() > MAX_OUTAGE {
            return Err(failure);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
