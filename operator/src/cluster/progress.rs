//! Reads the progress of a step from its pods.
//!
//! The trainer has no API token, so that the operator reads its progress over HTTP. While a pod cannot be reached, the status
//! keeps the last progress. It decides only how often a step that fails or is interrupted may go on.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use stic_contract::progress::{PROGRESS_PATH, PROGRESS_PORT};
use stic_contract::{Progress, StepName, StepResult};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// The largest response that is read: some other server may have that address.
const MAX_BYTES: usize = 64 * 1024;

/// Reads progress from pods.
#[derive(Debug)]
pub struct ProgressClient {
    /// Limits the concurrent requests of all runs.
    permits: Semaphore,
    timeout: Duration,
    port: u16,
}

/// Why the progress of a pod cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("{0:?} is not an IP address")]
    Address(String),
    #[error("no response in time")]
    Timeout,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("status {0}")]
    Status(StatusCode),
    /// The response is too long, or the connection broke.
    #[error("cannot read the response: {0}")]
    Body(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
}

impl ProgressClient {
    /// A client with at most `concurrency` requests at a time, each of which may take `timeout`.
    #[must_use]
    pub const fn new(concurrency: usize, timeout: Duration) -> Self {
        Self { permits: Semaphore::const_new(concurrency), timeout, port: PROGRESS_PORT }
    }

    /// The progress of `step`, from the results of its complete indexes and the pods of the others. Absent if no pod
    /// has any yet.
    ///
    /// # Errors
    /// No pod responds.
    pub async fn of_step(
        &self,
        step: StepName,
        complete: &[StepResult],
        addresses: &[String],
    ) -> Result<Option<Progress>, Unreachable> {
        let responses = join_all(addresses.iter().map(|address| async move {
            let response = self.read(address).await;
            response.inspect_err(|error| tracing::debug!(%address, %error, "cannot read progress"))
        }))
        .await;
        let (mut running, mut unreachable) = (Vec::new(), Vec::new());
        for response in responses {
            match response {
                Ok(progress) if progress.step == step => running.push(progress),
                Err(error) if !matches!(error, Unreachable::Status(_)) => unreachable.push(error),
                // A trainer that has not started its step yet.
                Ok(_) | Err(_) => {}
            }
        }
        let nobody_responds = unreachable.len() == addresses.len();
        match unreachable.pop().filter(|_| nobody_responds) {
            Some(error) => Err(error),
            None => Ok(sum(complete, running)),
        }
    }

    async fn read(&self, address: &str) -> Result<Progress, Unreachable> {
        let ip: IpAddr = address.parse().map_err(|_| Unreachable::Address(address.to_owned()))?;
        let Ok(_permit) = self.permits.acquire().await else { return Err(Unreachable::Timeout) };
        tokio::time::timeout(self.timeout, self.get(ip)).await.map_err(|_| Unreachable::Timeout)?
    }

    async fn get(&self, ip: IpAddr) -> Result<Progress, Unreachable> {
        let stream = TcpStream::connect((ip, self.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(PROGRESS_PATH)
            .header(HOST, std::net::SocketAddr::new(ip, self.port).to_string())
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                return Err(Unreachable::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
            Ok(serde_json::from_slice(
                &body.map_err(|error| Unreachable::Body(error.to_string()))?.to_bytes(),
            )?)
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        // The exchange makes progress only while the connection is polled.
        tokio::select! {
            response = &mut exchange => response,
            ended = &mut connection => { ended?; exchange.await }
        }
    }
}

/// The progress of all indexes of a step as one.
fn sum(complete: &[StepResult], running: Vec<Progress>) -> Option<Progress> {
    let mut all = running.into_iter().reduce(|mut all, one| {
        all.current += one.current;
        all.total += one.total;
        all.rate_per_second += one.rate_per_second;
        all.skipped += one.skipped;
        // The slowest index determines when all are complete.
        all.estimated_remaining_seconds =
            all.estimated_remaining_seconds.max(one.estimated_remaining_seconds);
        all.updated = all.updated.max(one.updated);
        all.metrics.extend(one.metrics);
        all
    })?;
    for items in complete.iter().filter_map(|result| result.items) {
        all.current += items.done + items.skipped;
        all.total += items.total;
        all.skipped += items.skipped;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::result::ItemCounts;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const BODY: &str = r#"{"step":"train","activity":"training","current":3,"total":10,"unit":"steps","ratePerSecond":0.5,"updated":7}"#;

    async fn served(response: String) -> Result<Progress, Unreachable> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.expect("a request");
            assert!(request[..count].starts_with(b"GET /progress HTTP/1.1\r\n"));
            let _ = stream.write_all(response.as_bytes()).await;
        });
        let client = ProgressClient { permits: Semaphore::new(1), timeout: Duration::from_secs(30), port };
        let progress = client.read("127.0.0.1").await;
        server.abort();
        progress
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn only_valid_progress_is_accepted() {
        assert_eq!(served(ok(BODY)).await.expect("it is progress").current, 3);
        assert!(matches!(served(ok("{}")).await, Err(Unreachable::Json(_))));
        let other = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned();
        assert!(matches!(served(other).await, Err(Unreachable::Status(StatusCode::SERVICE_UNAVAILABLE))));
        let long = ok(&" ".repeat(MAX_BYTES + 1));
        assert!(matches!(served(long).await, Err(Unreachable::Body(_))));
        let stuck = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
        assert!(served(stuck).await.is_err());
        let client = ProgressClient::new(1, Duration::from_millis(200));
        assert!(matches!(client.read("not an address").await, Err(Unreachable::Address(_))));
    }

    #[test]
    fn running_and_complete_indexes_are_summed() {
        let one: Progress = serde_json::from_str(BODY).expect("progress");
        let two = Progress { current: 1, estimated_remaining_seconds: Some(9), ..one.clone() };
        let items = Some(ItemCounts { total: 10, done: 9, skipped: 1 });
        let done = StepResult { items, ..StepResult::new(StepName::Train) };
        let all = sum(&[done], vec![one, two]).expect("two pods responded");
        assert_eq!((all.current, all.total, all.estimated_remaining_seconds), (14, 30, Some(9)));
        assert_eq!(sum(&[], vec![]), None);
    }
}
