//! What the API server is asked before something is begun: watches come in no order, and may be late.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Resource, ResourceExt};
use stic_contract::{RunConfig, RunIdentity, StepName};

use crate::build::{Attempt, CONFIG_FILE, labels, names};
use crate::cluster::objects::Pod;
use crate::context::Context;
use crate::validated::for_queue;

/// Whether a run with this metadata is the newest, as far as its Jobs are made of it. Its watch and that of its Jobs come
/// in no order: what was corrected before a Job was deleted may arrive after the deletion.
///
/// # Errors
/// Those of the API server.
pub(super) async fn is_newest<K>(
    context: &Context,
    run: &RunIdentity,
    seen: &ObjectMeta,
) -> kube::Result<bool>
where
    K: Resource<DynamicType = ()>,
{
    let stored = raw(context, &ApiResource::erase::<K>(&()), run).await?;
    let of_jobs = |it: &ObjectMeta| (it.generation, for_queue(&it.labels), for_queue(&it.annotations));
    Ok(stored.is_some_and(|stored| of_jobs(&stored.metadata) == of_jobs(seen)))
}

/// Whether a pod of an earlier Job of `step` may still write. The watch of pods may be later than that of Jobs, so where
/// there was an earlier one the API server is asked.
///
/// # Errors
/// Those of the API server.
pub(super) async fn ends_yet(
    context: &Context,
    run: &RunIdentity,
    step: StepName,
    attempt: u32,
) -> kube::Result<bool> {
    let of_step = |pod: &Pod| pod.labels().get(labels::STEP).is_some_and(|label| label == step.as_str());
    if context.pods.of(&run.uid).iter().any(|pod| of_step(pod) && !pod.status.is_finished()) {
        return Ok(true);
    }
    if attempt == 1 && run.rerun == 0 {
        return Ok(false);
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &run.namespace);
    let of_run = format!("{}={},{}={step}", labels::RUN_UID, run.uid, labels::STEP);
    let pods = api.list(&ListParams::default().labels(&of_run)).await?.items;
    Ok(pods.iter().any(|pod| !pod.status.is_finished()))
}

/// The run config that the run started with.
///
/// # Errors
/// Those of the API server.
pub(super) async fn started_with(context: &Context, run: &RunIdentity) -> kube::Result<Option<RunConfig>> {
    let name = names::attempt(run, Attempt { step: StepName::Prepare, number: 1 });
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &run.namespace);
    let map = api.get_opt(&name).await?;
    let text = map.and_then(|map| map.data).and_then(|mut data| data.remove(CONFIG_FILE));
    Ok(text.and_then(|text| match RunConfig::from_json(&text) {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::warn!(%error, config_map = name, "the run config of the first step cannot be read");
            None
        }
    }))
}

/// A run as it is stored. A list of one asks for no more rights than the watch does.
///
/// # Errors
/// Those of the API server.
pub(super) async fn raw(
    context: &Context,
    resource: &ApiResource,
    run: &RunIdentity,
) -> kube::Result<Option<DynamicObject>> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &run.namespace, resource);
    let named = ListParams::default().fields(&format!("metadata.name={}", run.name));
    let found = api.list(&named).await?.items.into_iter().next();
    Ok(found.filter(|object| object.uid().as_deref() == Some(&run.uid)))
}
