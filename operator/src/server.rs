//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use stic_contract::RunKind;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// The runs there are, by kind and phase.
pub type CountRuns = dyn Fn() -> Vec<(RunKind, String)> + Send + Sync;

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The metrics.
    pub metrics: Metrics,
    /// Whether the API server was reached.
    pub ready: Arc<AtomicBool>,
    /// Counts the runs when they are asked for.
    pub runs: Arc<CountRuns>,
}

/// Serves until the process ends.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, served: Served) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(served);
    axum::serve(listener, app).await
}

async fn ready(State(served): State<Served>) -> impl IntoResponse {
    if served.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server was not reached yet\n")
    }
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    served.metrics.count_runs((served.runs)());
    match served.metrics.text() {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string().into_bytes(),
        ),
    }
}
