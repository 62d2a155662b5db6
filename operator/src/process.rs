//! The operator process, from start to shutdown.

mod controllers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{Store, store};
use kube::{Client, Config};
use stic_contract::RunKind;
use stic_contract::listen::listen;
use stic_crds::{EvaluationRun, StageOneRun, StageTwoRun};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::controllers::{Stores, run_controllers};
use crate::cluster::lease::Candidate;
use crate::cluster::shutdown::stopped;
use crate::context::Context;
use crate::controllers::run::Run;
use crate::metrics::Metrics;
use crate::server::{ServerState, serve};
use crate::settings::Settings;
use crate::watches::Watches;

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// The listen address or the configuration of the cluster cannot be used, or the lease was lost.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut stop = on_signals()?;
    let mut config = Config::infer()
        .await
        .context("no cluster is configured; run in a pod with a service account, or set KUBECONFIG")?;
    // kube would repeat a request that is answered with 429, 503 or 504 for minutes, during which nothing is reported.
    config.default_retry = false;
    let client = Client::try_from(config).context("cannot use the configuration of the cluster")?;
    let metrics = Metrics::new()?;
    let (stage_ones, stage_one_writer) = store::<DeserializeGuard<StageOneRun>>();
    let (stage_twos, stage_two_writer) = store::<DeserializeGuard<StageTwoRun>>();
    let (evaluations, evaluation_writer) = store::<DeserializeGuard<EvaluationRun>>();
    let ready = Arc::new(AtomicBool::new(false));
    let (ones, twos, evaluated) = (stage_ones.clone(), stage_twos.clone(), evaluations.clone());
    let watches = Watches::new(&settings.namespaces, metrics.clone());
    let state = ServerState {
        metrics: metrics.clone(),
        watches: watches.clone(),
        ready: ready.clone(),
        runs: Arc::new(move || [phases(&ones), phases(&twos), phases(&evaluated)].concat()),
    };
    let listener = listen(settings.listen)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .with_context(|| format!("cannot listen on {}; choose another --listen", settings.listen))?;
    tokio::spawn(serve(listener, state));

    tokio::select! {
        () = reach_api_server(&client) => ready.store(true, Ordering::Relaxed),
        () = stopped(&mut stop) => return Ok(()),
    }
    tokio::spawn({
        let (watches, client) = (watches.clone(), client.clone());
        async move { watches.try_lists(&client).await }
    });
    let mut candidate = settings.lease.as_ref().map(|lease| {
        let namespace = lease.namespace.as_deref().unwrap_or(client.default_namespace());
        Candidate::new(client.clone(), namespace, &lease.name, &lease.identity)
    });
    if let Some(candidate) = &mut candidate {
        tracing::info!("waiting for the lease");
        tokio::select! {
            () = candidate.acquire() => {}
            () = stopped(&mut stop) => return Ok(()),
        }
    }
    metrics.set_leader(true);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "became leader");

    let context = Arc::new(Context::new(client, settings, metrics, watches, stage_ones, stage_twos));
    let stores = Stores { stage_one_writer, stage_two_writer, evaluation_writer, evaluations };
    let work = run_controllers(context, stores, stop.clone());
    match &mut candidate {
        None => work.await,
        Some(candidate) => {
            tokio::select! {
                () = work => {}
                // Another replica may be the leader by now, so that nothing may be written any more.
                why = candidate.hold() => bail!("{why}; the process exits, and takes part in the election again after its restart"),
            }
            candidate.release().await;
        }
    }
    tracing::info!("shut down cleanly");
    Ok(())
}

/// The kind and phase of every run in a store.
fn phases<K: Run>(store: &Store<DeserializeGuard<K>>) -> Vec<(RunKind, String)> {
    let phase = |object: Arc<DeserializeGuard<K>>| {
        let run = object.0.as_ref().ok()?;
        let phase = run.status().and_then(|status| status.phase()).unwrap_or("Pending");
        Some((K::KIND, phase.to_owned()))
    };
    store.state().into_iter().filter_map(phase).collect()
}

async fn reach_api_server(client: &Client) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(api_server = version.git_version, "reached the API server");
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot reach the API server"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn on_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down: finishing reconciliations that are under way");
        sender.send_replace(true);
        // Keep the sender, as receivers would take its end for another signal.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
