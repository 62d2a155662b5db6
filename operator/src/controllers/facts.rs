//! Facts that only the API server knows. The watches of runs, Jobs and pods are independent of each other and may lag
//! behind, so that these are read before a step that ran before is started.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Resource, ResourceExt};
use stic_contract::{RunConfig, RunIdentity, StepName};

use super::validation::for_queue;
use crate::build::names::{self, LaunchId};
use crate::build::{labels, paths};
use crate::cluster::objects::Pod;
use crate::context::Context;
use crate::decision::NeededFacts;
use crate::snapshot::Snapshot;

/// Adds the facts that are needed to a snapshot, which was gathered from an object with this metadata.
pub(super) async fn fetch<K>(
    context: &Context,
    snapshot: &mut Snapshot,
    watched: &ObjectMeta,
    needed: NeededFacts,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()>,
{
    let NeededFacts { started_with: config, is_newest: newest, pods_ended: pods } = needed;
    let run = &snapshot.run;
    let (config, newest, pods) = tokio::try_join!(
        async { if config { started_with(context, run).await.map(Some) } else { Ok(None) } },
        async { if newest { is_newest::<K>(context, run, watched).await.map(Some) } else { Ok(None) } },
        async {
            match pods {
                Some(step) => pods_ended(context, run, step).await.map(Some),
                None => Ok(None),
            }
        },
    )?;
    let facts = &mut snapshot.facts;
    facts.started_with = config.or(facts.started_with.take());
    facts.is_newest = newest.or(facts.is_newest);
    facts.pods_ended = pods.or(facts.pods_ended);
    Ok(())
}

/// Whether the API server has the version of the run that the watch delivered, as far as Jobs are created from it.
async fn is_newest<K>(context: &Context, run: &RunIdentity, watched: &ObjectMeta) -> kube::Result<bool>
where
    K: Resource<DynamicType = ()>,
{
    let stored = stored(context, &ApiResource::erase::<K>(&()), run).await?;
    let relevant = |it: &ObjectMeta| (it.generation, for_queue(&it.labels), for_queue(&it.annotations));
    Ok(stored.is_some_and(|stored| relevant(&stored.metadata) == relevant(watched)))
}

/// Whether every pod of the earlier launches of `step` has ended, so that none can still write.
async fn pods_ended(context: &Context, run: &RunIdentity, step: StepName) -> kube::Result<bool> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &run.namespace);
    let of_step = format!("{}={},{}={step}", labels::RUN_UID, run.uid, labels::STEP);
    let pods = api.list(&ListParams::default().labels(&of_step)).await?.items;
    Ok(pods.iter().all(|pod| pod.status.is_finished()))
}

/// The run config that the run started with; absent if it was deleted or cannot be read.
async fn started_with(context: &Context, run: &RunIdentity) -> kube::Result<Option<Box<RunConfig>>> {
    let name = names::launch(run, LaunchId { step: StepName::Prepare, number: 1 });
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &run.namespace);
    let map = api.get_opt(&name).await?;
    let text = map.and_then(|map| map.data).and_then(|mut data| data.remove(paths::CONFIG_FILE));
    Ok(text.and_then(|text| match RunConfig::from_json(&text) {
        Ok(config) => Some(Box::new(config)),
        Err(error) => {
            tracing::warn!(%error, config_map = name, "cannot read the run config of the first step");
            None
        }
    }))
}

/// A run as the API server has it. A list of one needs no more permissions than the watch.
pub(super) async fn stored(
    context: &Context,
    resource: &ApiResource,
    run: &RunIdentity,
) -> kube::Result<Option<DynamicObject>> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &run.namespace, resource);
    let named = ListParams::default().fields(&format!("metadata.name={}", run.name));
    let found = api.list(&named).await?.items.into_iter().next();
    Ok(found.filter(|object| object.uid().as_deref() == Some(&run.uid)))
}
