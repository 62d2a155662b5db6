//! Gathers the snapshot of a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};
use stic_contract::{Progress, RunIdentity, RunKind, pipeline};
use stic_crds::RunStatus;

use super::error::Error;
use super::observe::{self, Observation};
use super::repetition;
use super::run::Run;
use super::upstream::{Upstream, Upstreams};
use super::validation::identity;
use crate::build::job::{QUEUE_OF_RUN, SETTINGS, settings_digest};
use crate::build::labels;
use crate::cluster::objects::Job;
use crate::cluster::pod_trouble::is_idle;
use crate::cluster::results::pods_of;
use crate::context::Context;
use crate::decision::Verdict;
use crate::refusal::Refusal;
use crate::run_key::RunKey;
use crate::snapshot::{OpenJob, Requested, Snapshot};
use crate::status::{status, without_foreign_conditions};
use crate::validated::Validated;

/// A snapshot, and what executing a decision needs besides.
pub(super) struct Gathered {
    pub snapshot: Snapshot,
    /// The last status that was written, which may be that of an earlier rerun.
    pub recorded: RunStatus,
    /// The resource version that has it.
    pub version: Option<String>,
    /// The Job that has not ended.
    pub open_job: Option<Arc<Job>>,
    /// Jobs of earlier reruns that have not ended.
    pub superseded: Vec<Arc<Job>>,
    /// The progress of the running step.
    pub progress: Option<Progress>,
    /// Why it cannot be read, if that is to be reported now.
    pub progress_unreadable: Option<String>,
}

impl Gathered {
    /// The status that reports `verdict`.
    pub(super) fn status(&self, context: &Context, verdict: &Verdict) -> RunStatus {
        let images = &context.settings.trainer_images;
        status(&self.snapshot, verdict, self.progress.as_ref(), Some(images))
    }
}

/// Gathers everything that is known without asking the API server, except for Jobs and pods that the watches may not have
/// delivered yet.
pub(super) async fn gather<K: Run>(context: &Context, key: &RunKey, object: &K) -> Result<Gathered, Error> {
    let (recorded, version) = context.statuses.latest(key, object, object.status());
    let recorded = without_foreign_conditions(recorded);
    let requested = Requested { rerun: object.rerun(), retry: object.retry() };
    let run = identity(K::KIND, object.meta(), repetition::rerun(&recorded, requested))?;
    let generation = object.meta().generation.unwrap_or_default();
    let continued = repetition::continued(&run, &recorded, requested);
    let snapshot = Snapshot::new(
        run.clone(),
        generation,
        continued.as_ref().unwrap_or(&recorded),
        Time(Timestamp::now()),
        |previous| validate(context, object, &run, previous),
    );
    let snapshot = Snapshot { requested, ..snapshot };
    let mut gathered = Gathered {
        snapshot,
        recorded,
        version,
        open_job: None,
        superseded: Vec::new(),
        progress: None,
        progress_unreadable: None,
    };
    // The children of a run that has ended decide nothing.
    if gathered.snapshot.validated.is_some() {
        observe_children(context, &mut gathered).await?;
    }
    Ok(gathered)
}

async fn observe_children(context: &Context, gathered: &mut Gathered) -> kube::Result<()> {
    let snapshot = &mut gathered.snapshot;
    let Observation { steps, open_job, superseded, progress, progress_unreadable, result_pending } =
        observe::observe(context, &snapshot.run, &snapshot.previous, &snapshot.now).await?;
    let pods = context.pods.of(&snapshot.run.uid);
    let unfinished = pods.iter().filter(|pod| !pod.status.is_finished());
    let labels: Vec<&String> = unfinished.filter_map(|pod| pod.labels().get(labels::STEP)).collect();
    let all = pipeline::steps(snapshot.run.kind).iter().map(|spec| spec.name);
    snapshot.running_pods = all.filter(|step| labels.iter().any(|label| *label == step.as_str())).collect();
    let step_of = |job: &Job| job.labels().get(labels::STEP).and_then(|step| step.parse().ok());
    let is_outdated = |job: &Job| {
        let expected = snapshot.valid().zip(step_of(job)).map(|(run, step)| settings_digest(run, step));
        let created_with = job.annotations().get(SETTINGS);
        created_with.is_some() && expected.is_some() && created_with != expected.as_ref()
    };
    snapshot.open_job = open_job.as_ref().map(|job| OpenJob {
        outdated: is_outdated(job),
        retry_limit: job.retry_limit(),
        idle: step_of(job).is_none_or(|step| {
            pods_of(&context.pods, job).iter().all(|pod| is_idle(step, pod, &snapshot.now))
        }),
        queued: job.is_queued(),
        delegated: job.is_delegated(),
        queued_by_run: job.annotations().contains_key(QUEUE_OF_RUN),
        suspended: job.spec.suspend,
        held: job.is_held(),
        queue_labels: job.queue_labels(),
        deadline_of_run: job.deadline_of_run(),
        started: job.status.start_time.clone(),
    });
    snapshot.steps = steps;
    snapshot.result_pending = result_pending;
    gathered.open_job = open_job;
    gathered.superseded = superseded;
    gathered.progress = progress;
    gathered.progress_unreadable = progress_unreadable;
    Ok(())
}

fn validate<K: Run>(
    context: &Context,
    object: &K,
    run: &RunIdentity,
    previous: &RunStatus,
) -> Result<Validated, Refusal> {
    let names = object.upstreams();
    if names.is_empty() {
        return object.validate(Upstreams::NONE);
    }
    // Subscribe before reading, so that a change in between still triggers a reconciliation.
    for (kind, name) in &names {
        context.references.insert(RunKey::new(*kind, &run.namespace, name), run.into());
    }
    if let RunStatus { steps, inputs: Some(inputs), .. } = previous
        && (steps.iter().any(|step| step.attempts > 0) || observe::has_started(context, run))
    {
        return object.validate(Upstreams {
            stage_one: &|_| Upstream::Pinned(inputs),
            stage_two: &|_| Upstream::Pinned(inputs),
        });
    }
    let stage_ones = find(&context.stage_ones, run, &names);
    let stage_twos = find(&context.stage_twos, run, &names);
    object.validate(Upstreams {
        stage_one: &|name| upstream(stage_ones.get(name)),
        stage_two: &|name| upstream(stage_twos.get(name)),
    })
}

type Stored<K> = Arc<DeserializeGuard<K>>;

/// Those of `names` that are in a store, by name.
fn find<K: Run>(
    store: &Store<DeserializeGuard<K>>,
    run: &RunIdentity,
    names: &[(RunKind, &str)],
) -> BTreeMap<String, Stored<K>> {
    let of_kind = names.iter().filter(|(kind, _)| *kind == K::KIND);
    let get = |name: &str| store.get(&ObjectRef::new(name).within(&run.namespace));
    of_kind.filter_map(|(_, name)| Some(((*name).to_owned(), get(name)?))).collect()
}

fn upstream<K>(stored: Option<&Stored<K>>) -> Upstream<'_, K> {
    match stored.map(|stored| &stored.0) {
        Some(Ok(run)) => Upstream::Found(run),
        Some(Err(_)) => Upstream::Unreadable,
        None => Upstream::Missing,
    }
}
