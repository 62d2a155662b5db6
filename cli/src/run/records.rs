//! What finished steps said, and whether it still holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use stic_contract::artifact::{SUCCESS_FILE, partial_dir};
use stic_contract::{Artifact, Digest, ExitCode, RunConfig, StepName, StepResult, SuccessMarker, pipeline};
use stic_operator::Validated;
use stic_operator::build::run_config::{Made, run_config};
use stic_operator::plan::{Observed, StepObservation, StepOutcome, merge};

use crate::error::{Failure, Result};
use crate::state::{State, read, write};

const VOLUMES: &str = "volumes.json";

/// The finished steps whose results still hold: the same run config, the same folders, artifacts in place. After
/// the first that does not, none is.
pub(super) fn observe(
    run: &Validated,
    state: &State,
    folders: &BTreeMap<String, PathBuf>,
) -> Result<Observed> {
    let mut observed = Observed::default();
    let records = state.records(run.run.rerun);
    if read::<BTreeMap<String, PathBuf>>(&records.join(VOLUMES))?.as_ref() != Some(folders) {
        return Ok(observed);
    }
    let mut made = Made::default();
    for spec in pipeline::steps(run.run.kind) {
        if made.artifacts.contains_key(&spec.produces) {
            continue;
        }
        let shards = if spec.sharded { run.shards } else { 1 };
        let Some(result) = recorded(&records, spec.name, shards)? else { break };
        let config = run_config(run, spec.name, &made).ok();
        if config.is_none() || read::<RunConfig>(&state.config(spec.name))? != config {
            break;
        }
        if !holds(&result, run, folders)? {
            break;
        }
        made.add(&result);
        let outcome = StepOutcome::Succeeded(Box::new(result));
        observed.steps.insert(spec.name, StepObservation::new(1, outcome));
    }
    Ok(observed)
}

/// Forgets what later steps said before, and notes the folders.
pub(super) fn begin(
    run: &Validated,
    state: &State,
    step: StepName,
    folders: &BTreeMap<String, PathBuf>,
) -> Result<()> {
    let records = state.records(run.run.rerun);
    std::fs::create_dir_all(&records).map_err(Failure::storage(&records))?;
    let from = pipeline::steps(run.run.kind).iter().skip_while(|spec| spec.name != step);
    for spec in from {
        for shard in 0.. {
            let path = record(&records, spec.name, shard);
            if !path.exists() {
                break;
            }
            std::fs::remove_file(&path).map_err(Failure::storage(&path))?;
        }
    }
    write(&records.join(VOLUMES), folders)
}

/// Records what a finished shard said.
pub(super) fn add(run: &Validated, state: &State, shard: u32, result: &StepResult) -> Result<()> {
    write(&record(&state.records(run.run.rerun), result.step, shard), result)
}

/// What all shards of a finished step said.
pub(super) fn recorded(records: &Path, step: StepName, shards: u32) -> Result<Option<StepResult>> {
    let mut all = Vec::new();
    for shard in 0..shards {
        let Some(result) = read::<StepResult>(&record(records, step, shard))? else { return Ok(None) };
        all.push(result);
    }
    Ok(merge(all))
}

fn record(records: &Path, step: StepName, shard: u32) -> PathBuf {
    records.join(format!("{step}-{shard:05}.json"))
}

fn holds(result: &StepResult, run: &Validated, folders: &BTreeMap<String, PathBuf>) -> Result<bool> {
    for artifact in &result.artifacts {
        if !is_in_place(artifact, folders)? {
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

fn is_in_place(artifact: &Artifact, folders: &BTreeMap<String, PathBuf>) -> Result<bool> {
    let Some(volume) = folders.get(&artifact.location.volume) else { return Ok(false) };
    let folder = volume.join(&artifact.location.path);
    let marker: Option<SuccessMarker> = read(&folder.join(SUCCESS_FILE))?;
    if marker.is_none_or(|marker| marker.digest != artifact.digest) {
        return Ok(false);
    }
    // The marker says what it was; whether it still is, only its bytes do.
    let payload = folder.join(artifact.kind.payload_file());
    let Ok(file) = File::open(&payload) else { return Ok(false) };
    let (found, _) = Digest::of_reader(file).map_err(Failure::storage(&payload))?;
    if found == artifact.digest {
        return Ok(true);
    }
    Err(Failure::new(
        ExitCode::DataInvalid,
        format!(
            "{}: has digest {found}, {} was recorded; the file was changed after it was made: restore it, or delete its folder and it will be made again",
            payload.display(),
            artifact.digest
        ),
    ))
}
