//! Labels and owner references of the objects a run is made of.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use stic_contract::{RunIdentity, RunKind, StepName};
use stic_crds::{GROUP, VERSION};

/// Children are found by this.
pub const RUN_UID: &str = "stic.dev/run-uid";
/// The run's name.
pub const RUN: &str = "stic.dev/run";
/// The run's kind.
pub const RUN_KIND: &str = "stic.dev/run-kind";
/// Kubernetes' own label for what looks after an object; children are watched by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// What looks after them.
pub const OPERATOR: &str = "stic-operator";
/// The step.
pub const STEP: &str = "stic.dev/step";

/// What every object of a run carries.
#[must_use]
pub fn of_run(run: &RunIdentity) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "stic-trainer"),
        ("app.kubernetes.io/instance", run.name.as_str()),
        ("app.kubernetes.io/part-of", "stic"),
        (MANAGED_BY, OPERATOR),
        (RUN, run.name.as_str()),
        (RUN_UID, run.uid.as_str()),
        (RUN_KIND, kind(run.kind)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// What every object of a step carries.
#[must_use]
pub fn of_step(run: &RunIdentity, step: StepName) -> BTreeMap<String, String> {
    let mut labels = of_run(run);
    labels.insert("app.kubernetes.io/component".into(), step.to_string());
    labels.insert(STEP.into(), step.to_string());
    labels
}

/// The run as its children's controller.
#[must_use]
pub fn owner(run: &RunIdentity) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind(run.kind).into(),
        name: run.name.clone(),
        uid: run.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether an owner is a run.
#[must_use]
pub fn is_run(owner: &OwnerReference) -> bool {
    owner.api_version.split('/').next() == Some(GROUP)
}

/// The kind as Kubernetes spells it.
#[must_use]
pub const fn kind(kind: RunKind) -> &'static str {
    match kind {
        RunKind::StageOneRun => "StageOneRun",
        RunKind::StageTwoRun => "StageTwoRun",
    }
}
