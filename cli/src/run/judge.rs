//! The judge of an evaluation, whose prompts and key come from a ConfigMap and a Secret on a cluster.

use std::collections::BTreeMap;
use std::path::Path;

use stic_contract::evaluation::{JUDGE_API_KEY, JUDGE_PROMPTS};
use stic_operator::Validated;
use stic_operator::validated::Judge;

use crate::error::{Failure, Result};
use crate::manifests::Manifest;

type ConfigMaps = BTreeMap<String, BTreeMap<String, String>>;

/// Refuses a judge that could not be asked, before hours of answering.
///
/// # Errors
/// Naming what is missing.
pub(super) fn check(run: &Validated, manifest: &Manifest, config_maps: &ConfigMaps) -> Result<()> {
    let Some(Judge { endpoint, prompts, .. }) = judge(run) else { return Ok(()) };
    if !config_maps.contains_key(prompts) {
        return Err(Failure::config(manifest.message_at(
            "spec.judge.promptsConfigMapRef.name",
            format!("there is no ConfigMap {prompts} among the manifests. Add its manifest with -f."),
        )));
    }
    if endpoint.has_api_key && std::env::var_os(JUDGE_API_KEY).is_none() {
        return Err(Failure::config(manifest.message_at(
            "spec.judge.apiKeySecretRef",
            format!("there is no Secret without a cluster. Set the variable {JUDGE_API_KEY} to the key of the API."),
        )));
    }
    Ok(())
}

/// Writes the judge's prompts to where the trainer expects them to be mounted.
///
/// # Errors
/// Storage failed.
pub(super) fn write_prompts(run: &Validated, config_maps: &ConfigMaps, mounts: &Path) -> Result<()> {
    let Some(prompts) = judge(run).and_then(|judge| config_maps.get(&judge.prompts)) else { return Ok(()) };
    let folder = mounts.join(JUDGE_PROMPTS);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(Failure::storage(&folder))?;
    }
    std::fs::create_dir_all(&folder).map_err(Failure::storage(&folder))?;
    for (name, text) in prompts {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(Failure::storage(&file))?;
    }
    Ok(())
}

fn judge(run: &Validated) -> Option<&Judge> {
    run.work.evaluation()?.judge.as_ref()
}
