//! Labels and owner references of the Kubernetes objects of a run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use stic_contract::{RunIdentity, StepName};
use stic_crds::{GROUP, VERSION};

use crate::validated::Validated;

/// The label by which the children of a run are watched and found.
pub const RUN_UID: &str = "stic.dev/run-uid";
pub const RUN: &str = "stic.dev/run";
pub const RUN_KIND: &str = "stic.dev/run-kind";
/// Kubernetes' own label for the tool that manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const OPERATOR: &str = "stic-operator";
pub const STEP: &str = "stic.dev/step";
/// Kubernetes' own label for the instance of an application. Argo CD takes an object with it that has no owner for one
/// of its Application of that name, and prunes it.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Kueue's labels and annotations. A run has them itself, and its Jobs take them from there.
pub const KUEUE: &str = "kueue.x-k8s.io/";

/// The labels of every object of a run.
#[must_use]
pub fn of_run(run: &RunIdentity) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "stic-trainer"),
        (INSTANCE, run.name.as_str()),
        ("app.kubernetes.io/part-of", "stic"),
        (MANAGED_BY, OPERATOR),
        (RUN, run.name.as_str()),
        (RUN_UID, run.uid.as_str()),
        (RUN_KIND, run.kind.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The labels of every object of a step.
#[must_use]
pub fn of_step(run: &RunIdentity, step: StepName) -> BTreeMap<String, String> {
    let mut labels = of_run(run);
    labels.insert("app.kubernetes.io/component".into(), step.to_string());
    labels.insert(STEP.into(), step.to_string());
    labels
}

/// The labels of the Job and the ConfigMap of a step: those of its pods, except that Kueue's are the run's own.
#[must_use]
pub fn of_launch(run: &Validated, step: StepName) -> BTreeMap<String, String> {
    let mut labels = run.pod(step).labels.unwrap_or_default();
    labels.retain(|key, _| !key.starts_with(KUEUE));
    labels.extend(of_step(&run.run, step));
    labels
}

/// The labels of the claim of a run: those that the pods of all its steps have in common. One that the run does not own
/// has no [`INSTANCE`].
#[must_use]
pub fn of_claim(run: &Validated, owned: bool) -> BTreeMap<String, String> {
    let mut pods = run.operation.pods.values().map(|pod| pod.labels.clone().unwrap_or_default());
    let mut labels = pods.next().unwrap_or_default();
    for other in pods {
        labels.retain(|key, value| other.get(key) == Some(value));
    }
    labels.retain(|key, _| !key.starts_with(KUEUE) && key != INSTANCE);
    labels.extend(of_run(&run.run));
    if !owned {
        labels.remove(INSTANCE);
    }
    labels
}

/// The reference that makes a run the controller of an object.
#[must_use]
pub fn owner(run: &RunIdentity) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: run.kind.as_str().into(),
        name: run.name.clone(),
        uid: run.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the owner is a run of any kind.
#[must_use]
pub fn is_run(owner: &OwnerReference) -> bool {
    owner.api_version.split('/').next() == Some(GROUP)
}

/// Whether the object is controlled by the run with this UID.
#[must_use]
pub fn is_controlled_by(metadata: &ObjectMeta, run_uid: &str) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == run_uid)
}
