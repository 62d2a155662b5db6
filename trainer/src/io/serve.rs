//! Serves a step's progress over HTTP: `/progress` as JSON of the contract, `/metrics` for Prometheus. Both are read-only
//! and hold nothing secret, so they need no credentials.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};
use stic_contract::Progress;
use stic_contract::listen::listen;
use stic_contract::progress::PROGRESS_PATH;

use crate::error::{Error, Result};

/// The latest progress, shared by the step, which sets it, and the server.
#[derive(Debug, Clone, Default)]
pub struct LatestProgress(Arc<Mutex<Option<Progress>>>);

impl LatestProgress {
    pub fn set(&self, progress: &Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }

    /// `None` before the step has started.
    #[must_use]
    pub fn get(&self) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves `latest` on `address` in a thread that runs until the process ends. Returns the bound address, or `None` where
/// the port is in use, as by another container of the pod: the step itself needs no server.
///
/// # Errors
/// [`Error::Config`] where the server cannot listen on the address for another reason.
pub fn serve(address: SocketAddr, latest: LatestProgress) -> Result<Option<SocketAddr>> {
    let unusable = |e: std::io::Error| {
        Error::Config(format!("--serve {address}: {e}; give an address of this machine and a free port"))
    };
    let listener = match listen(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            tracing::warn!(%address, "another program uses this port: progress is not served. Free the port, or give another one with --serve");
            return Ok(None);
        }
        listener => listener.map_err(unusable)?,
    };
    listener.set_nonblocking(true).map_err(unusable)?;
    let bound = listener.local_addr().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(unusable)?;
    let router =
        Router::new().route(PROGRESS_PATH, get(progress)).route("/metrics", get(metrics)).with_state(latest);
    let run = move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        })
    };
    thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            // The step itself is not affected.
            if let Err(error) = run() {
                tracing::warn!(%error, "stopped serving progress");
            }
        })
        .map_err(unusable)?;
    Ok(Some(bound))
}

async fn progress(State(latest): State<LatestProgress>) -> Response {
    match latest.get().map(|progress| serde_json::to_string(&progress)) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the step has not started yet\n").into_response(),
    }
}

async fn metrics(State(latest): State<LatestProgress>) -> Response {
    match latest.get().map_or_else(|| Ok(String::new()), |progress| exposition(&progress)) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Prometheus' text format. The labels are step, unit and the metric's name, but not the run, which Prometheus adds.
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
        (
            "stic_step_units_done",
            "Finished units, including those of earlier attempts.",
            progress.current as f64,
        ),
        ("stic_step_units", "Total units.", progress.total as f64),
        ("stic_step_units_per_second", "Units per second of this attempt.", progress.rate_per_second),
        ("stic_step_items_skipped", "Items skipped because they could not be read.", progress.skipped as f64),
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
    fn the_latest_progress_is_served() {
        let latest = LatestProgress::default();
        let any_port = "127.0.0.1:0".parse().expect("an address");
        let address = serve(any_port, latest.clone()).expect("it can listen").expect("a free port");
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
        latest.set(&shown);
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

        let taken = serve(address, LatestProgress::default()).expect("the step can do without");
        assert_eq!(taken, None, "the port is taken");
        let elsewhere = "192.0.2.1:8080".parse().expect("an address");
        let error = serve(elsewhere, LatestProgress::default()).expect_err("not of this machine").to_string();
        assert!(error.starts_with("--serve 192.0.2.1:8080: ") && error.ends_with("a free port"), "{error}");
    }
}
