//! The watches and the controllers of every kind.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::core::{ApiResource, DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use stic_crds::{EvaluationRun, StageOneRun, StageTwoRun};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinHandle;

use crate::cluster::changes::changes;
use crate::cluster::children::{PAGE_SIZE, Triggers, watch_children, watched};
use crate::cluster::claims::watch_claims;
use crate::cluster::coalesce::coalesce;
use crate::cluster::namespaces::merge;
use crate::cluster::objects::{Job, Pod, prune};
use crate::cluster::results;
use crate::cluster::shutdown::stopped;
use crate::context::Context;
use crate::controllers::reconcile::{error_policy, reconcile};
use crate::controllers::run::Run;
use crate::run_key::RunKey;
use crate::watches::{self, scopes};

/// Changes of one run within this time, such as of the pods of its shards, lead to one reconciliation.
const COALESCING_WINDOW: Duration = Duration::from_millis(50);

type Guard<K> = DeserializeGuard<K>;

/// The stores of runs that are not in the [`Context`], and what fills them.
pub(super) struct Stores {
    pub stage_one_writer: Writer<Guard<StageOneRun>>,
    pub stage_two_writer: Writer<Guard<StageTwoRun>>,
    pub evaluation_writer: Writer<Guard<EvaluationRun>>,
    pub evaluations: Store<Guard<EvaluationRun>>,
}

/// Runs every controller until the signal to shut down, and completes what they have begun.
pub(super) async fn run_controllers(context: Arc<Context>, stores: Stores, stop: channel::Receiver<bool>) {
    let (triggers, triggered) = Triggers::new();
    let watches = watch_dependents(&context, &triggers);
    // Without the lists of Jobs and pods, a run would look as if it had never started.
    let synced = async {
        context.jobs.synced().await;
        context.pods.synced().await;
    };
    let mut stopping = stop.clone();
    tokio::select! {
        () = synced => {}
        () = stopped(&mut stopping) => return,
    }
    // A run is reconciled when one that it starts from changes.
    let announce = || {
        let (context, triggers) = (context.clone(), triggers.clone());
        move |changed: &Vec<RunKey>| {
            let dependents = changed.iter().flat_map(|run| context.references.of(run));
            dependents.for_each(|run| triggers.send(run));
        }
    };
    let one_changes = watch_runs(&context, stores.stage_one_writer).inspect_ok(announce());
    let two_changes = watch_runs(&context, stores.stage_two_writer).inspect_ok(announce());
    let evaluation_changes = watch_runs(&context, stores.evaluation_writer);
    // Without the lists of the runs that it starts from, a run would report that they do not exist.
    let ones_listed = async {
        let _ = context.stage_ones.wait_until_ready().await;
    };
    let all_listed = async {
        let _ = context.stage_ones.wait_until_ready().await;
        let _ = context.stage_twos.wait_until_ready().await;
    };
    let run = |stop: &channel::Receiver<bool>| (context.clone(), stop.clone());
    let (of_ones, of_twos, of_evaluations) = (run(&stop), run(&stop), run(&stop));
    tokio::join!(
        run_controller(of_ones, one_changes, context.stage_ones.clone(), triggered.stage_one),
        after(ones_listed, stop.clone(), || {
            run_controller(of_twos, two_changes, context.stage_twos.clone(), triggered.stage_two)
        }),
        after(all_listed, stop.clone(), || {
            run_controller(of_evaluations, evaluation_changes, stores.evaluations, triggered.evaluation)
        }),
    );
    for watch in watches {
        watch.abort();
    }
}

/// Runs a controller once `listed` is complete, unless the process is shutting down by then.
async fn after<C: Future<Output = ()>>(
    listed: impl Future<Output = ()>,
    mut stop: channel::Receiver<bool>,
    controller: impl FnOnce() -> C,
) {
    tokio::select! {
        () = listed => {}
        () = stopped(&mut stop) => return,
    }
    controller().await;
}

/// Watches claims, Jobs and pods, whose changes trigger the runs that depend on them.
fn watch_dependents(context: &Arc<Context>, triggers: &Triggers) -> [JoinHandle<()>; 3] {
    let (of_claims, claim_triggers) = (context.clone(), triggers.clone());
    let of_jobs = context.clone();
    let forget_job = move |job: &Job| {
        of_jobs.progress_log.forget(job.metadata.uid.as_deref().unwrap_or_default());
        results::job_deleted(&of_jobs.jobs, &of_jobs.pods, job);
    };
    let (jobs, pods) = (context.jobs.clone(), context.pods.clone());
    let forget_pod = move |pod: &Pod| results::pod_deleted(&pods, &jobs, pod);
    [
        tokio::spawn(async move {
            let claims = watch::<PartialObjectMeta<PersistentVolumeClaim>>(
                &of_claims,
                &watcher::Config::default(),
                ApiResource::erase::<PersistentVolumeClaim>(&()),
                |_| {},
            );
            watch_claims(claims, &of_claims.claims, &claim_triggers).await;
        }),
        tokio::spawn(watch_children(children(context), context.jobs.clone(), triggers.clone(), forget_job)),
        tokio::spawn(watch_children(children(context), context.pods.clone(), triggers.clone(), forget_pod)),
    ]
}

fn watch_runs<K: Run>(
    context: &Context,
    writer: Writer<Guard<K>>,
) -> impl Stream<Item = watcher::Result<Vec<RunKey>>> + Send + 'static {
    let config = watcher::Config::default().page_size(PAGE_SIZE);
    let events = watch::<Guard<K>>(context, &config, ApiResource::erase::<K>(&()), |object| {
        let metadata = object.meta_mut();
        metadata.managed_fields = None;
        // kubectl apply stores a second copy of the whole manifest there.
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    });
    changes(writer, events).map_ok(|changed| {
        let key =
            |run: ObjectRef<_>| Some(RunKey { kind: K::KIND, namespace: run.namespace?, name: run.name });
        changed.into_iter().filter_map(key).collect()
    })
}

async fn run_controller<K: Run>(
    (context, mut stop): (Arc<Context>, channel::Receiver<bool>),
    runs: impl Stream<Item = watcher::Result<Vec<RunKey>>> + Send + 'static,
    reader: Store<Guard<K>>,
    mut triggered: mpsc::UnboundedReceiver<RunKey>,
) {
    // Changes of a run and of its children arrive through one stream, so that they are coalesced.
    let (changes, mut changed) = mpsc::unbounded_channel();
    let objects = runs.try_filter_map(move |changed| {
        for run in changed {
            let _ = changes.send(run);
        }
        std::future::ready(Ok(None))
    });
    let triggered = futures::stream::select(
        futures::stream::poll_fn(move |task| triggered.poll_recv(task)),
        futures::stream::poll_fn(move |task| changed.poll_recv(task)),
    );
    let triggered = coalesce(triggered, COALESCING_WINDOW)
        .map(|run| ObjectRef::<Guard<K>>::new(&run.name).within(&run.namespace));
    let config = controller::Config::default().concurrency(context.settings.concurrency);
    // Before its first list a controller has not begun anything, and would wait for the list before it stops.
    let stopped_before_list = {
        let (reader, mut stop) = (reader.clone(), stop.clone());
        async move {
            stopped(&mut stop).await;
            if reader.wait_until_ready().now_or_never().is_some() {
                std::future::pending().await
            }
        }
    };
    let controller = Controller::for_stream(objects, reader)
        .reconcile_on(triggered)
        .with_config(config)
        .graceful_shutdown_on(async move { stopped(&mut stop).await })
        .run(reconcile::<K>, error_policy::<K>, context.clone())
        .for_each(|result| {
            match result {
                // The error policy has logged the failure.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                // The run was deleted. None of its reconciliations is under way, as this takes the place of one.
                Err(controller::Error::ObjectNotFound(run)) => {
                    context.forget(K::KIND, run.namespace.as_deref().unwrap_or_default(), &run.name);
                }
                Err(error) => {
                    tracing::warn!(%error, kind = K::KIND.as_str(), "watch failed; are the CRDs installed?");
                }
            }
            std::future::ready(())
        });
    tokio::select! {
        () = controller => {}
        () = stopped_before_list => {}
    }
}

/// An object of a namespace that can be watched.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static
{
}

/// The events of the Jobs or pods of runs.
fn children<K: Watched>(context: &Context) -> BoxStream<'static, watcher::Result<Event<K>>> {
    watch(context, &watched(), ApiResource::erase::<K>(&()), |child: &mut K| prune(child.meta_mut()))
}

/// The events of one type in every watched namespace. `prune` removes what is not read.
fn watch<K: Watched>(
    context: &Context,
    config: &watcher::Config,
    resource: ApiResource,
    prune: fn(&mut K),
) -> BoxStream<'static, watcher::Result<Event<K>>> {
    let of_scope = |scope: Option<String>| {
        let api: Api<K> = match &scope {
            Some(namespace) => Api::namespaced(context.client.clone(), namespace),
            None => Api::all(context.client.clone()),
        };
        let events = watcher(api, config.clone()).default_backoff().modify(prune);
        context.watches.observe(watches::name(&resource), scope, events).boxed()
    };
    let mut all: Vec<_> = scopes(&context.settings.namespaces).into_iter().map(of_scope).collect();
    match all.pop() {
        Some(one) if all.is_empty() => one,
        last => {
            all.extend(last);
            merge(all).boxed()
        }
    }
}
