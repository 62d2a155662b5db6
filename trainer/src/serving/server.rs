//! Loads the model, and runs the HTTP server beside the engine until a signal or a failure ends both.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use image::RgbImage;
use stic_contract::listen::listen;
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision};

use super::engine::Engine;
use super::frontend::Frontend;
use super::http::{self, Shared};
use super::job_queue::JobQueue;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::TrainedProjector;
use crate::device;
use crate::error::{Error, Result};
use crate::inference::{GenerationPlan, ModelFiles, Vlm};
use crate::model::lora::LoraAdapter;

/// Counted for a request when memory is planned; a longer one waits until others leave room.
const PROMPT_TOKENS: usize = 512;
const ANSWER_TOKENS: u32 = 1024;
/// Threads that read requests and send answers.
const HTTP_THREADS: usize = 2;

/// What to serve, and where.
#[derive(Debug)]
pub struct ServeOptions<'a> {
    pub model: &'a Path,
    /// By name.
    pub adapters: &'a [(String, PathBuf)],
    pub chat_template: ChatTemplate,
    /// The number format of weights and activations.
    pub precision: Precision,
    pub address: SocketAddr,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Answers at a time; 0 for as many as fit in memory.
    pub responses_at_once: usize,
}

/// Serves until `signals` is cancelled.
///
/// # Errors
/// [`Error::Interrupted`] after a signal; [`Error::Config`] for an address or a model that cannot be used; what ends the
/// engine.
pub fn serve(options: &ServeOptions<'_>, signals: &CancellationToken) -> Result<()> {
    let names = names(options)?;
    // A port that is taken is found before the model is loaded.
    let listener = open(options.address)?;
    let files = ModelFiles::open(options.model, ImageLayout::Model)?;
    let encoder = Arc::new(files.encoder(options.chat_template)?);
    check_processor(&files)?;
    let vlm = Arc::new(Vlm::with_files(files, options.precision, &device::first()?)?);
    let mut adapters = vec![None];
    for (_, dir) in options.adapters {
        adapters.push(Some(vlm.load_adapter(dir, TrainedProjector::Refuse)?));
    }
    signals.check()?;

    let plan = GenerationPlan {
        requested: options.responses_at_once,
        responses: usize::MAX,
        prompt_tokens: PROMPT_TOKENS,
        max_new_tokens: ANSWER_TOKENS,
        adapter_bytes: adapters.iter().flatten().map(LoraAdapter::bytes).sum(),
        reduced: false,
    };
    let batch_size = vlm.batch_size(&plan)?;
    let largest = plan.largest_request(&vlm.files, vlm.files.largest_image().1);
    let cached_tokens = batch_size.saturating_mul(largest.image_tokens + largest.text_tokens);
    let max_tokens = vlm.files.max_tokens().min(cached_tokens);

    let queue = Arc::new(JobQueue::new(names.len()));
    let frontend = Frontend { vlm: Arc::clone(&vlm), encoder: Arc::clone(&encoder), names, max_tokens };
    let places = batch_size.saturating_add(options.max_queue);
    let shared = Arc::new(Shared::new(frontend, Arc::clone(&queue), places));
    let (stop, give_up) = (signals.child(), CancellationToken::default());
    let http = start(options.address, listener, shared, &stop, &give_up)?;
    let engine = Engine {
        vlm: &vlm,
        eos: encoder.tokenizer.eos_ids(),
        adapters: &adapters,
        queue: &queue,
        batch_size,
        cached_tokens,
        cancellation: &give_up,
    };
    let ended = engine.run();
    // If the engine failed, requests must not wait for it.
    queue.close();
    stop.cancel();
    if http.join().is_err() {
        tracing::error!("the HTTP server panicked");
    }
    tracing::info!("stopped serving");
    ended.and(Err(Error::Interrupted))
}

/// The names of the models: the base model's folder, and the adapters.
fn names(options: &ServeOptions<'_>) -> Result<Vec<String>> {
    let folder = options.model.canonicalize().unwrap_or_else(|_| options.model.to_owned());
    let base = folder.file_name().map_or_else(|| "base".into(), |name| name.to_string_lossy().into_owned());
    let mut names = vec![base];
    for (name, _) in options.adapters {
        if names.contains(name) {
            return Err(Error::Config(format!(
                "--adapter {name}=...: {name} is the name of the model's folder, which is that of the base model; choose another NAME"
            )));
        }
        names.push(name.clone());
    }
    Ok(names)
}

fn unusable(address: SocketAddr) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        Error::Config(format!("--listen {address}: {error}; give an address of this machine and a free port"))
    }
}

fn open(address: SocketAddr) -> Result<TcpListener> {
    let listener = listen(address).map_err(unusable(address))?;
    listener.set_nonblocking(true).map_err(unusable(address))?;
    Ok(listener)
}

/// Finds files that do not match before the first request does.
fn check_processor(files: &ModelFiles) -> Result<()> {
    let image = RgbImage::new(64, 48);
    files.check_shapes((image.height(), image.width()))?;
    files.check_crops(&image)
}

/// Starts the HTTP server on threads of its own.
fn start(
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: &CancellationToken,
    give_up: &CancellationToken,
) -> Result<thread::JoinHandle<()>> {
    let bound = listener.local_addr().map_err(unusable(address))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("http")
        .enable_io()
        .enable_time()
        .build()
        .map_err(unusable(address))?;
    if !bound.ip().is_loopback() {
        tracing::warn!(address = %bound, "anyone who reaches this address can use the model: there are no credentials");
    }
    let names = shared.frontend.names.join(", ");
    let (stop, give_up) = (stop.clone(), give_up.clone());
    let serve = move || {
        let served = runtime.block_on(http::serve(listener, Arc::clone(&shared), stop, give_up.clone()));
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server failed");
        }
        // Without the server the engine has nothing to do.
        shared.queue.close();
        give_up.cancel();
        runtime.shutdown_background();
    };
    let started = thread::Builder::new().name("http".into()).spawn(serve).map_err(unusable(address))?;
    tracing::info!(address = %bound, models = names, "serving /v1/chat/completions, /v1/models and /healthz");
    Ok(started)
}
