//! The ConfigMap that carries a run config to its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::RunConfig;

use super::labels;
use super::names::{self, LaunchId};
use super::paths::CONFIG_FILE;
use crate::validated::Validated;

/// The ConfigMap of a launch. It is immutable, because a run config is never recomputed.
///
/// # Errors
/// The run config cannot be serialized, which its types rule out.
pub fn config_map(run: &Validated, config: &RunConfig, launch: LaunchId) -> serde_json::Result<ConfigMap> {
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::launch(&config.run, launch)),
            namespace: Some(config.run.namespace.clone()),
            labels: Some(labels::of_launch(run, launch.step)),
            owner_references: Some(vec![labels::owner(&config.run)]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), serde_json::to_string_pretty(config)?)])),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}
