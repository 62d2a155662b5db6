//! The operator from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use stic_contract::RunKind;
use stic_crds::status::SUCCEEDED;
use stic_crds::{StageOneRun, StageTwoRun};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cluster::changes::changes;
use crate::cluster::children::{PAGE, Touched, Triggers, follow};
use crate::cluster::claims;
use crate::cluster::coalesce::coalesce;
use crate::cluster::lease::Candidate;
use crate::cluster::objects::{Job, Pod};
use crate::cluster::results;
use crate::context::Context;
use crate::controllers::driver::{on_error, reconcile};
use crate::controllers::run::Run;
use crate::metrics::Metrics;
use crate::server::{Served, serve};
use crate::settings::Settings;

/// Several changes of one run, such as of the pods of its shards, are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);

type Guard<K> = DeserializeGuard<K>;

/// Runs the operator until it is asked to end.
///
/// # Errors
/// What it cannot run without: the settings' address, the API server's configuration, the leadership it had.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut stop = on_signals()?;
    let client = Client::try_default()
        .await
        .context("no cluster is configured; run in a pod with a service account, or set KUBECONFIG")?;
    let metrics = Metrics::new()?;
    let (stage_ones, stage_one_writer) = store::<Guard<StageOneRun>>();
    let (stage_twos, stage_two_writer) = store::<Guard<StageTwoRun>>();
    let ready = Arc::new(AtomicBool::new(false));
    let (ones, twos) = (stage_ones.clone(), stage_twos.clone());
    let served = Served {
        metrics: metrics.clone(),
        ready: ready.clone(),
        runs: Arc::new(move || phases(&ones).into_iter().chain(phases(&twos)).collect()),
    };
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --listen", settings.listen))?;
    tokio::spawn(serve(listener, served));

    tokio::select! {
        () = reach(&client) => ready.store(true, Ordering::Relaxed),
        () = stopped(&mut stop) => return Ok(()),
    }
    let mut candidate = settings.lease.as_ref().map(|lease| {
        let namespace = lease.namespace.as_deref().unwrap_or(client.default_namespace());
        Candidate::new(client.clone(), namespace, &lease.name, &lease.identity)
    });
    if let Some(candidate) = &mut candidate {
        tracing::info!("waits for the leadership");
        tokio::select! {
            () = candidate.acquire() => {}
            () = stopped(&mut stop) => return Ok(()),
        }
    }
    metrics.leads(true);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "leads");

    let context = Arc::new(Context::new(client, settings, metrics, stage_ones));
    let work = work(context, stage_one_writer, stage_two_writer, stage_twos, stop.clone());
    match &mut candidate {
        None => work.await,
        Some(candidate) => {
            tokio::select! {
                () = work => {}
                // Somebody else may lead by now: not one more write.
                why = candidate.hold() => bail!("{why}; this process ends, and starts again as a candidate"),
            }
            candidate.release().await;
        }
    }
    tracing::info!("ends as it was asked to");
    Ok(())
}

/// All controllers, until they are asked to stop and what they have begun is done.
async fn work(
    context: Arc<Context>,
    stage_one_writer: Writer<Guard<StageOneRun>>,
    stage_two_writer: Writer<Guard<StageTwoRun>>,
    stage_twos: Store<Guard<StageTwoRun>>,
    stop: watch::Receiver<bool>,
) {
    let (stage_one, ones) = mpsc::unbounded_channel();
    let (stage_two, twos) = mpsc::unbounded_channel();
    let triggers = Triggers { stage_one, stage_two };
    let (of_claims, wakes) = (context.clone(), triggers.clone());
    let followers = [
        tokio::spawn(async move { claims::follow(api(&of_claims), &of_claims.claims, &wakes).await }),
        {
            let (jobs, pods) = (context.jobs.clone(), context.pods.clone());
            let forget = move |job: &Job| results::job_deleted(&jobs, &pods, job);
            tokio::spawn(follow(api(&context), context.jobs.clone(), triggers.clone(), forget))
        },
        {
            let (jobs, pods) = (context.jobs.clone(), context.pods.clone());
            let forget = move |pod: &Pod| results::pod_deleted(&pods, &jobs, pod);
            tokio::spawn(follow(api(&context), context.pods.clone(), triggers.clone(), forget))
        },
    ];
    // Without them a run would look as if it had never been started.
    let synced = async {
        context.jobs.synced().await;
        context.pods.synced().await;
    };
    let mut stopping = stop.clone();
    tokio::select! {
        () = synced => {}
        () = stopped(&mut stopping) => return,
    }
    let stage_ones = context.stage_ones.clone();
    let upstreams = {
        let context = context.clone();
        // A StageTwoRun hears of the StageOneRun it starts from.
        runs::<StageOneRun>(&context.clone(), stage_one_writer).inspect_ok(move |changed| {
            for Touched { namespace, name, .. } in changed {
                for name in context.references.of(namespace, name) {
                    let kind = RunKind::StageTwoRun;
                    triggers.send(Touched { kind, namespace: namespace.clone(), name });
                }
            }
        })
    };
    let downstreams = runs::<StageTwoRun>(&context, stage_two_writer);
    let listed = context.stage_ones.clone();
    let stage_two = async {
        let mut stopping = stop.clone();
        tokio::select! {
            // Or it would say of each StageOneRun that it does not exist.
            _ = listed.wait_until_ready() => control(context.clone(), downstreams, stage_twos, twos, stop.clone()).await,
            () = stopped(&mut stopping) => {}
        }
    };
    tokio::join!(control(context.clone(), upstreams, stage_ones, ones, stop.clone()), stage_two);
    for follower in followers {
        follower.abort();
    }
}

fn runs<K: Run>(
    context: &Context,
    writer: Writer<Guard<K>>,
) -> impl Stream<Item = watcher::Result<Vec<Touched>>> + Send + 'static {
    let events = watcher(api::<Guard<K>>(context), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(|object| {
            let metadata = object.meta_mut();
            metadata.managed_fields = None;
            // kubectl apply keeps the whole manifest there, once more.
            if let Some(annotations) = &mut metadata.annotations {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        });
    changes(writer, events).map_ok(|changed| {
        let touched =
            |run: ObjectRef<_>| Some(Touched { kind: K::KIND, namespace: run.namespace?, name: run.name });
        changed.into_iter().filter_map(touched).collect()
    })
}

async fn control<K: Run>(
    context: Arc<Context>,
    runs: impl Stream<Item = watcher::Result<Vec<Touched>>> + Send + 'static,
    reader: Store<Guard<K>>,
    mut touched: mpsc::UnboundedReceiver<Touched>,
    mut stop: watch::Receiver<bool>,
) {
    // Changes of a run and of its children come one way, so that those that come together are looked at together.
    let (changes, mut changed) = mpsc::unbounded_channel();
    let objects = runs.try_filter_map(move |changed| {
        for run in changed {
            let _ = changes.send(run);
        }
        std::future::ready(Ok(None))
    });
    let touched = futures::stream::select(
        futures::stream::poll_fn(move |task| touched.poll_recv(task)),
        futures::stream::poll_fn(move |task| changed.poll_recv(task)),
    );
    let touched = coalesce(touched, TOGETHER)
        .map(|touched| ObjectRef::<Guard<K>>::new(&touched.name).within(&touched.namespace));
    let config = controller::Config::default().concurrency(context.settings.concurrency);
    // Before its first list a controller has begun nothing, and would wait for the list before it stops.
    let unlisted = {
        let (reader, mut stop) = (reader.clone(), stop.clone());
        async move {
            stopped(&mut stop).await;
            if reader.wait_until_ready().now_or_never().is_some() {
                std::future::pending().await
            }
        }
    };
    let controller = Controller::for_stream(objects, reader)
        .reconcile_on(touched)
        .with_config(config)
        .graceful_shutdown_on(async move { stopped(&mut stop).await })
        .run(reconcile::<K>, on_error::<K>, context.clone())
        .for_each(|ended| {
            match ended {
                // What failed was logged by the error policy.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                // A run that is gone is no failure. None of its reconciliations is under way any more: this comes in
                // place of one.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    context.forget(K::KIND, gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                }
                Err(error) => {
                    tracing::warn!(%error, kind = ?K::KIND, "a watch broke off; if it stays so, are the CRDs there?");
                }
            }
            std::future::ready(())
        });
    tokio::select! {
        () = controller => {}
        () = unlisted => {}
    }
}

fn api<K>(context: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &context.settings.namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    }
}

/// The phase of every run of a kind.
fn phases<K: Run>(store: &Store<Guard<K>>) -> Vec<(RunKind, String)> {
    let phase = |object: Arc<Guard<K>>| {
        let run = object.0.as_ref().ok()?;
        let condition = run.status().and_then(|status| status.condition(SUCCEEDED));
        Some((K::KIND, condition.map_or_else(|| "Pending".to_owned(), |condition| condition.reason.clone())))
    };
    store.state().into_iter().filter_map(phase).collect()
}

async fn reach(client: &Client) {
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
        tracing::info!("was asked to end: finishes what is begun");
        sender.send_replace(true);
        // Receivers must not take its end for a signal of their own kind.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
