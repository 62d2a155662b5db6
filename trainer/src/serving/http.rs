//! The HTTP server: routes, places in the queue, and the way from a request to its job.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, mpsc};

use super::api::ModelList;
use super::api_error::ApiError;
use super::chat_request::Delivery;
use super::frontend::{Frontend, Question};
use super::job::{Client, Job};
use super::job_queue::JobQueue;
use super::reply::{Reply, json, unix_seconds};
use super::request_body;
use crate::cancellation::CancellationToken;

/// Bodies that are read, and images that are decoded, at a time. It bounds the memory that they take.
const UPLOADS: usize = 4;
/// What a client that was refused a place should wait before it asks again.
const RETRY_AFTER_SECONDS: &str = "1";
/// How often a signal is looked for.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);
/// How long answers that are being generated may take after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// How long responses may take to be sent after that.
const LAST_RESPONSES: Duration = Duration::from_secs(2);

/// What handlers share.
pub(super) struct Shared {
    pub(super) frontend: Frontend,
    pub(super) queue: Arc<JobQueue<Job>>,
    /// One for each request that is read, waits or is answered.
    places: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    started: u64,
}

impl Shared {
    pub(super) fn new(frontend: Frontend, queue: Arc<JobQueue<Job>>, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { frontend, queue, places, uploads: Arc::new(Semaphore::new(UPLOADS)), started: unix_seconds() }
    }
}

/// Serves until `stop` is cancelled. Then requests that wait are refused, those that are being answered may finish within
/// [`GRACE`], and `give_up` is cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
    give_up: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let queue = Arc::clone(&shared.queue);
    let router = Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/models", get(models))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(shared);
    let stopped = {
        let stop = stop.clone();
        async move {
            cancelled(&stop).await;
            queue.close();
        }
    };
    let served = async { axum::serve(listener, router).with_graceful_shutdown(stopped).await };
    let deadline = async {
        cancelled(&stop).await;
        tokio::time::sleep(GRACE).await;
        give_up.cancel();
        tokio::time::sleep(LAST_RESPONSES).await;
    };
    let served = tokio::select! {
        served = served => served,
        () = deadline => Ok(()),
    };
    give_up.cancel();
    served
}

async fn cancelled(token: &CancellationToken) {
    while !token.is_cancelled() {
        tokio::time::sleep(SIGNAL_INTERVAL).await;
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, json(&self.document())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

async fn unknown(request: Request) -> ApiError {
    let error = ApiError::unknown_path(request.method().as_str(), request.uri().path());
    request_body::discard(request.into_body()).await;
    error
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    json(&ModelList::of(&shared.frontend.names, shared.started))
}

async fn chat_completions(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    // A page in a browser cannot send this to another server without asking it first.
    if !is_json(&head.headers) {
        request_body::discard(body).await;
        return Err(ApiError::not_json());
    }
    let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
        request_body::discard(body).await;
        return Err(ApiError::queue_full());
    };
    let Ok(upload) = Arc::clone(&shared.uploads).acquire_owned().await else {
        return Err(ApiError::stopping());
    };
    let body = request_body::read(body).await?;
    let reader = Arc::clone(&shared);
    let read = move || {
        let question = reader.frontend.read(&body);
        drop(upload);
        question
    };
    let question = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| ApiError::failed(format!("the request could not be read: {error}")))?;
    let Question { model, prompt, image, sampling, seed, stops, delivery } = question?;

    let (events, received) = mpsc::unbounded_channel();
    let prompt_tokens = prompt.len();
    let client = Client { events, _place: place };
    let job = Job { prompt, image, sampling, seed, client };
    if !shared.queue.push(model, job.cached_tokens(), job) {
        return Err(ApiError::stopping());
    }
    let Frontend { encoder, names, .. } = &shared.frontend;
    let name = names.get(model).cloned().unwrap_or_default();
    let (encoder, queue) = (Arc::clone(encoder), Arc::clone(&shared.queue));
    let reply = Reply::new(encoder, queue, received, (name, prompt_tokens), stops);
    match delivery {
        Delivery::Whole => reply.whole().await,
        Delivery::Streamed { include_usage } => Ok(reply.streamed(include_usage)),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
