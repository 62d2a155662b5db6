//! Settings of pods that Kubernetes accepts although they cannot work, or whose rejection would not name the field.

use std::collections::BTreeSet;

use stic_contract::StepName;
use stic_crds::pod::{PodSettings, section};

use super::names;
use super::paths::{CONFIG_DIR, VOLUMES_DIR};
use super::pod::OWN_VOLUMES;
use crate::validated::{Validated, used_claims};

/// Checks the pods of every step, so that a mistake shows before the first one starts.
///
/// # Errors
/// A message that names the field and how to correct it.
pub fn check_pods(run: &Validated) -> Result<(), String> {
    let claims: BTreeSet<String> = run.claims().map(names::pod_volume).collect();
    run.operation.pods.iter().try_for_each(|(step, pod)| {
        check_devices(pod)
            .and_then(|()| check_volumes(pod, &claims))
            .and_then(|()| check_mounts(pod))
            .map_err(|message| format!("{message} ({})", used_by(*step)))
    })
}

/// Where a setting of a step's pods is found in the spec.
fn used_by(step: StepName) -> String {
    format!("step {step}, which takes it from spec.pod or spec.pod.{}", section(step.phase()))
}

/// A container gets the devices of the claims that it names, and no others.
fn check_devices(pod: &PodSettings) -> Result<(), String> {
    let named: BTreeSet<&str> = used_claims(pod).map(|claim| claim.name.as_str()).collect();
    let requested = pod.resource_claims.iter().flatten();
    let requested: BTreeSet<&str> = requested.map(|claim| claim.name.as_str()).collect();
    if let Some(unused) = requested.difference(&named).next() {
        return Err(format!(
            "spec.pod.resourceClaims: no container uses claim {unused}, so that the trainer would not get its device; add {{name: {unused}}} to spec.pod.resources.claims, or remove the claim"
        ));
    }
    named.difference(&requested).next().map_or(Ok(()), |unknown| {
        Err(format!(
            "spec.pod.resources.claims: there is no claim {unknown} in spec.pod.resourceClaims; add it there, or correct the name"
        ))
    })
}

fn check_volumes(pod: &PodSettings, claims: &BTreeSet<String>) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for volume in pod.volumes.iter().flatten() {
        let name = volume.name.as_str();
        if OWN_VOLUMES.contains(&name) || claims.contains(name) {
            return Err(format!(
                "spec.pod.volumes: a volume of the operator is named {name}; choose another name"
            ));
        }
        if !names.insert(name) {
            return Err(format!("spec.pod.volumes: two volumes are named {name}; rename one"));
        }
    }
    match pod.volume_mounts.iter().flatten().find(|mount| !names.contains(mount.name.as_str())) {
        Some(mount) => Err(format!(
            "spec.pod.volumeMounts: there is no volume {} in spec.pod.volumes; add it there, or correct the name",
            mount.name
        )),
        None => Ok(()),
    }
}

/// A mount over one of the operator's own would hide what the trainer reads or writes there.
fn check_mounts(pod: &PodSettings) -> Result<(), String> {
    let hides = |path: &str| {
        let path = path.trim_end_matches('/');
        let below = |own: &str| path == own || path.starts_with(&format!("{own}/"));
        path.is_empty()
            || path == "/etc"
            || path == "/dev"
            || path == "/tmp"
            || below(CONFIG_DIR)
            || below(VOLUMES_DIR)
    };
    match pod.volume_mounts.iter().flatten().find(|mount| hides(&mount.mount_path)) {
        Some(mount) => Err(format!(
            "spec.pod.volumeMounts: a mount at {} would hide what the operator mounts; choose another path",
            mount.mount_path
        )),
        None => Ok(()),
    }
}
