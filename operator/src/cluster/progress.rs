//! Reads how far a step is from its pods.
//!
//! The trainer has no API token and cannot report; so it is asked. Nobody depends on the answer: a pod that cannot be
//! reached leaves what was known before.

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

/// The most bytes of an answer: another server at that address must not fill our memory.
const MAX_BYTES: usize = 64 * 1024;

/// Asks pods.
#[derive(Debug)]
pub struct Client {
    /// How many are asked at once, over all runs.
    permits: Semaphore,
    timeout: Duration,
    port: u16,
}

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It has no address yet that is one.
    #[error("{0:?} is no address")]
    Address(String),
    /// Not in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// Another answer.
    #[error("status {0}")]
    Status(StatusCode),
    /// Too long or broken off.
    #[error("the answer cannot be read: {0}")]
    Body(String),
    /// Not progress.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Of the request, which the types exclude.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
}

impl Client {
    /// A client that asks at most `concurrency` pods at once and waits `timeout` for each.
    #[must_use]
    pub const fn new(concurrency: usize, timeout: Duration) -> Self {
        Self { permits: Semaphore::const_new(concurrency), timeout, port: PROGRESS_PORT }
    }

    /// How far `step` is: what its finished indexes made and what its running ones say. Absent where none answers.
    pub async fn of_step(
        &self,
        step: StepName,
        done: &[StepResult],
        addresses: &[String],
    ) -> Option<Progress> {
        let answers = join_all(addresses.iter().map(|address| async move {
            self.ask(address).await.inspect_err(|why| tracing::debug!(%address, %why, "no progress")).ok()
        }))
        .await;
        let answers: Vec<Progress> =
            answers.into_iter().flatten().filter(|progress| progress.step == step).collect();
        sum(done, answers)
    }

    async fn ask(&self, address: &str) -> Result<Progress, Unreachable> {
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
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(Unreachable::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            Ok(serde_json::from_slice(
                &body.map_err(|error| Unreachable::Body(error.to_string()))?.to_bytes(),
            )?)
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        // The connection must be driven for the exchange to move, and ends with it.
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => { ended?; exchange.await }
        }
    }
}

/// Several indexes of a step as one.
fn sum(done: &[StepResult], running: Vec<Progress>) -> Option<Progress> {
    let mut all = running.into_iter().reduce(|mut all, one| {
        all.current += one.current;
        all.total += one.total;
        all.rate_per_second += one.rate_per_second;
        all.skipped += one.skipped;
        // The slowest index decides when all are done.
        all.estimated_remaining_seconds =
            all.estimated_remaining_seconds.max(one.estimated_remaining_seconds);
        all.updated = all.updated.max(one.updated);
        all.metrics.extend(one.metrics);
        all
    })?;
    for items in done.iter().filter_map(|result| result.items) {
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

    async fn served(answer: String) -> Result<Progress, Unreachable> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.expect("a request");
            assert!(request[..count].starts_with(b"GET /progress HTTP/1.1\r\n"));
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let client = Client { permits: Semaphore::new(1), timeout: Duration::from_secs(30), port };
        let answer = client.ask("127.0.0.1").await;
        server.abort();
        answer
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn progress_is_read_and_nothing_else_is_taken_for_it() {
        assert_eq!(served(ok(BODY)).await.expect("it is progress").current, 3);
        assert!(matches!(served(ok("{}")).await, Err(Unreachable::Json(_))));
        let other = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned();
        assert!(matches!(served(other).await, Err(Unreachable::Status(StatusCode::SERVICE_UNAVAILABLE))));
        let long = ok(&" ".repeat(MAX_BYTES + 1));
        assert!(matches!(served(long).await, Err(Unreachable::Body(_))));
        let stuck = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
        assert!(served(stuck).await.is_err());
        let client = Client::new(1, Duration::from_millis(200));
        assert!(matches!(client.ask("not an address").await, Err(Unreachable::Address(_))));
    }

    #[test]
    fn indexes_are_summed_with_those_that_are_done() {
        let one: Progress = serde_json::from_str(BODY).expect("progress");
        let two = Progress { current: 1, estimated_remaining_seconds: Some(9), ..one.clone() };
        let items = Some(ItemCounts { total: 10, done: 9, skipped: 1 });
        let done = StepResult { items, ..StepResult::new(StepName::Train) };
        let all = sum(&[done], vec![one, two]).expect("two answered");
        assert_eq!((all.current, all.total, all.estimated_remaining_seconds), (14, 30, Some(9)));
        assert_eq!(sum(&[], vec![]), None);
    }
}
