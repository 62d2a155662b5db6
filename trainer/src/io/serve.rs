//! A step's progress over HTTP, for whoever watches its pod: `/progress` as the contract has it, `/metrics` for
//! Prometheus. It tells and takes nothing, so it needs no credentials.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};
use stic_contract::Progress;
use stic_contract::progress::PROGRESS_PATH;

use crate::error::{Error, Result};

/// The latest progress, written by the step and read by the server.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Option<Progress>>>);

impl Board {
    /// Shows `progress` from now on.
    pub fn show(&self, progress: &Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }

    /// What is shown.
    #[must_use]
    pub fn read(&self) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves `board` on `address` from a thread of its own until the process ends; the address it listens on.
///
/// # Errors
/// [`Error::Config`] where the address cannot be listened on.
pub fn serve(address: SocketAddr, board: Board) -> Result<SocketAddr> {
    let unusable = |e: std::io::Error| {
        Error::Config(format!("--serve {address}: {e}; give an address of this machine and a free port"))
    };
    let listener = TcpListener::bind(address).map_err(unusable)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    let bound = listener.local_addr().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(unusable)?;
    let router =
        Router::new().route(PROGRESS_PATH, get(progress)).route("/metrics", get(metrics)).with_state(board);
    let run = move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        })
    };
    thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            // The step goes on: who watches it finds it silent, and nothing is lost.
            if let Err(error) = run() {
                tracing::warn!(%error, "progress is no longer served");
            }
        })
        .map_err(unusable)?;
    Ok(bound)
}

async fn progress(State(board): State<Board>) -> Response {
    match board.read().map(|progress| serde_json::to_string(&progress)) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the step has not begun yet\n").into_response(),
    }
}

async fn metrics(State(board): State<Board>) -> Response {
    match board.read().map_or_else(|| Ok(String::new()), |progress| exposition(&progress)) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Prometheus' text format. Labelled by step, unit and the metric's name: never by run.
fn exposition(progress: &Progress) -> prometheus::Result<String> {
    let registry = Registry::new();
    let step = progress.step.as_str();
    let gauge = |name: &str, help: &str, label: &str| -> prometheus::Result<GaugeVec> {
        let gauge = GaugeVec::new(Opts::new(name, help), &["step", label])?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    let unit = progress.unit.as_str();
    for (name, help, value) in [
        ("stic_step_units_done", "Units done, those of earlier attempts included.", progress.current as f64),
        ("stic_step_units_total", "Units in all.", progress.total as f64),
        ("stic_step_units_per_second", "Units done a second by this attempt.", progress.rate_per_second),
        (
            "stic_step_items_skipped",
            "Items left out because they could not be read.",
            progress.skipped as f64,
        ),
    ] {
        gauge(name, help, "unit")?.with_label_values(&[step, unit]).set(value);
    }
    let latest =
        gauge("stic_step_metric", "The latest value of a training metric, under TRL's name.", "name")?;
    for (name, value) in &progress.metrics {
        latest.with_label_values(&[step, name.as_str()]).set(*value);
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use stic_contract::StepName;

    use super::*;

    fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: step\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    #[test]
    fn what_the_step_shows_is_what_is_served() {
        let board = Board::default();
        let address = serve("127.0.0.1:0".parse().expect("an address"), board.clone()).expect("a free port");
        assert_eq!(get(address, PROGRESS_PATH).0, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(get(address, "/metrics").1, "");

        let shown = Progress {
            step: StepName::Train,
            activity: "training".into(),
            current: 3,
            total: 24,
            unit: "steps".into(),
            rate_per_second: 0.5,
            estimated_remaining_seconds: Some(42),
            metrics: BTreeMap::from([("rewards/margins".to_owned(), 0.25)]),
            skipped: 1,
            updated: 1_790_000_000,
        };
        board.show(&shown);
        let (status, body) = get(address, PROGRESS_PATH);
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!(serde_json::from_str::<Progress>(&body).expect("the contract's JSON"), shown);
        let metrics = get(address, "/metrics").1;
        for line in [
            "stic_step_units_done{step=\"train\",unit=\"steps\"} 3",
            "stic_step_items_skipped{step=\"train\",unit=\"steps\"} 1",
            "stic_step_metric{name=\"rewards/margins\",step=\"train\"} 0.25",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in: {metrics}");
        }
        assert_eq!(get(address, "/secrets").0, "HTTP/1.1 404 Not Found");

        let taken = serve(address, Board::default()).expect_err("the port is taken").to_string();
        assert!(
            taken.starts_with(&format!("--serve {address}: ")) && taken.ends_with("a free port"),
            "{taken}"
        );
    }
}
