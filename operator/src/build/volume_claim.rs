//! The claim that is created for a run's output.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_crds::lifecycle::WhenDeleted;

use super::labels;
use crate::validated::Validated;

/// The claim, if the run requests one. The run owns it only if it is to be deleted with the run.
#[must_use]
pub fn volume_claim(run: &Validated) -> Option<PersistentVolumeClaim> {
    let template = run.output.claim.as_ref()?;
    let owned = run.operation.retention.when_deleted == WhenDeleted::Delete;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(run.output.location.volume.clone()),
            namespace: Some(run.run.namespace.clone()),
            labels: Some(labels::of_claim(run, owned)),
            owner_references: owned.then(|| vec![labels::owner(&run.run)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(template.access_modes.iter().map(|mode| mode.as_str().to_owned()).collect()),
            storage_class_name: template.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    Quantity(template.resources.requests.storage.clone()),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
