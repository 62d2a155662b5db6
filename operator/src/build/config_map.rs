//! The ConfigMap that carries a run config to its pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::RunConfig;

use super::{Attempt, CONFIG_FILE, labels, names};

/// The ConfigMap of an attempt: immutable, because a run config is never recomputed.
///
/// # Errors
/// The run config cannot be written as JSON, which its types exclude.
pub fn config_map(config: &RunConfig, attempt: Attempt) -> serde_json::Result<ConfigMap> {
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::attempt(&config.run, attempt)),
            namespace: Some(config.run.namespace.clone()),
            labels: Some(labels::of_step(&config.run, attempt.step)),
            owner_references: Some(vec![labels::owner(&config.run)]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), serde_json::to_string_pretty(config)?)])),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}
