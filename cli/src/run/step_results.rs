//! The results of finished steps, and whether they are still valid.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use stic_contract::artifact::{SUCCESS_FILE, partial_dir};
use stic_contract::{Artifact, Digest, ExitCode, RunConfig, StepName, StepResult, SuccessMarker, pipeline};
use stic_operator::Validated;
use stic_operator::build::run_config::{PreviousResults, run_config};
use stic_operator::snapshot::{StepOutcome, StepSnapshot, Steps, merge};

use crate::error::{Failure, Result};
use crate::state::{State, read, write};

/// The folders of the claims, for which the results are valid.
const VOLUMES: &str = "volumes.json";

/// The finished steps whose results are still valid: run config and folders are unchanged, and the artifacts are intact.
/// Steps after the first one that is not valid are left out.
pub(super) fn load_valid(
    run: &Validated,
    state: &State,
    folders: &BTreeMap<String, PathBuf>,
) -> Result<Steps> {
    let mut steps = Steps::new();
    let results = state.results_dir(run.run.rerun);
    if read::<BTreeMap<String, PathBuf>>(&results.join(VOLUMES))?.as_ref() != Some(folders) {
        return Ok(steps);
    }
    let mut previous = PreviousResults::default();
    for spec in run.steps() {
        if previous.artifacts.contains_key(&spec.produces) {
            continue;
        }
        let shards = if spec.sharded { run.shards } else { 1 };
        let Some(result) = load(&results, spec.name, shards)? else { break };
        let config = run_config(run, spec.name, &previous).ok();
        if config.is_none() || read::<RunConfig>(&state.config(spec.name))? != config {
            break;
        }
        if !is_valid(&result, run, folders)? {
            break;
        }
        previous.add(&result);
        let outcome = StepOutcome::Succeeded(Box::new(result));
        steps.insert(spec.name, StepSnapshot::new(1, outcome));
    }
    Ok(steps)
}

/// Removes earlier results of `step` and the steps after it, and stores the folders.
pub(super) fn start_step(
    run: &Validated,
    state: &State,
    step: StepName,
    folders: &BTreeMap<String, PathBuf>,
) -> Result<()> {
    let results = state.results_dir(run.run.rerun);
    std::fs::create_dir_all(&results).map_err(Failure::storage(&results))?;
    let from = pipeline::steps(run.run.kind).iter().skip_while(|spec| spec.name != step);
    for spec in from {
        for shard in 0.. {
            let path = result_file(&results, spec.name, shard);
            if !path.exists() {
                break;
            }
            std::fs::remove_file(&path).map_err(Failure::storage(&path))?;
        }
    }
    write(&results.join(VOLUMES), folders)
}

/// Stores the result of a finished shard.
pub(super) fn save(run: &Validated, state: &State, shard: u32, result: &StepResult) -> Result<()> {
    write(&result_file(&state.results_dir(run.run.rerun), result.step, shard), result)
}

/// The merged result of all shards of a step; `None` if one of them has no result.
pub(super) fn load(results: &Path, step: StepName, shards: u32) -> Result<Option<StepResult>> {
    let mut all = Vec::new();
    for shard in 0..shards {
        let Some(result) = read::<StepResult>(&result_file(results, step, shard))? else { return Ok(None) };
        all.push(result);
    }
    Ok(merge(all))
}

fn result_file(results: &Path, step: StepName, shard: u32) -> PathBuf {
    results.join(format!("{step}-{shard:05}.json"))
}

fn is_valid(result: &StepResult, run: &Validated, folders: &BTreeMap<String, PathBuf>) -> Result<bool> {
    for artifact in &result.artifacts {
        if !is_intact(artifact, folders)? {
            return Ok(false);
        }
    }
    let Some(shards) = &result.shards else { return Ok(true) };
    let output = &run.output.location;
    let Some(root) = folders.get(&output.volume).map(|folder| folder.join(&output.path)) else {
        return Ok(false);
    };
    Ok(root.join(partial_dir(&run.run)).join(&shards.folder).is_dir() || root.join(&shards.folder).is_dir())
}

fn is_intact(artifact: &Artifact, folders: &BTreeMap<String, PathBuf>) -> Result<bool> {
    let Some(volume) = folders.get(&artifact.location.volume) else { return Ok(false) };
    let folder = volume.join(&artifact.location.path);
    let marker: Option<SuccessMarker> = read(&folder.join(SUCCESS_FILE))?;
    if marker.is_none_or(|marker| marker.digest != artifact.digest) {
        return Ok(false);
    }
    // The marker has the digest of the payload when it was written. Only the bytes show whether it is unchanged.
    let payload = folder.join(artifact.kind.payload_file());
    let Ok(file) = File::open(&payload) else { return Ok(false) };
    let (found, _) = Digest::of_reader(file).map_err(Failure::storage(&payload))?;
    if found == artifact.digest {
        return Ok(true);
    }
    Err(Failure::new(
        ExitCode::DataInvalid,
        format!(
            "{}: the file has changed since it was created: its digest is {found}, not {}. Restore it, or delete its folder to create it again.",
            payload.display(),
            artifact.digest
        ),
    ))
}
