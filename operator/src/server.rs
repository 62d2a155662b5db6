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
use crate::watches::Watches;

/// Returns the kind and phase of every run.
pub type ListRuns = dyn Fn() -> Vec<(RunKind, String)> + Send + Sync;

#[derive(Clone)]
pub struct ServerState {
    pub metrics: Metrics,
    /// Whether the API server was reached since the start.
    pub ready: Arc<AtomicBool>,
    /// What can be listed.
    pub watches: Watches,
    /// Lists the runs for each request of /metrics.
    pub runs: Arc<ListRuns>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, state: ServerState) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    axum::serve(listener, app).await
}

async fn ready(State(state): State<ServerState>) -> impl IntoResponse {
    if !state.ready.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "cannot reach the API server yet\n".to_owned());
    }
    match state.watches.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(missing) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{missing}grant the operator these rights (the chart does with rbac.create), and install the CRDs\n"
            ),
        ),
    }
}

async fn metrics(State(state): State<ServerState>) -> impl IntoResponse {
    state.metrics.set_runs((state.runs)());
    match state.metrics.text() {
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
