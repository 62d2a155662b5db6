//! The shards of a generating step become one artifact.

use std::path::{Path, PathBuf};

use serde_json::json;
use stic_contract::Artifact;
use stic_contract::config::{Train, TrainData};

use super::super::context::StepContext;
use super::super::items::PreparedItems;
use super::super::shards::shard_path;
use super::examples::TrainingRecord;
use super::space_check::check_disk_space;
use crate::error::{Error, Result};
use crate::io::artifact::{Output, open_input, read_marker};
use crate::io::journal;

/// The data artifact and its folder: sealed from the run's own shards, or complete already.
pub(super) fn seal<R: TrainingRecord>(
    task: &Train,
    prepared: &PreparedItems,
    context: &StepContext,
    output: &Output,
) -> Result<(Artifact, PathBuf)> {
    let set = match &task.data {
        TrainData::Sealed(reference) => {
            let dir = open_input(&context.volumes, reference)?;
            let artifact = Artifact {
                kind: R::KIND,
                location: reference.location.clone(),
                digest: reference.digest.clone(),
                size_bytes: read_marker(&dir)?.map_or(0, |marker| marker.size_bytes),
                step: R::STEP,
                reused: true,
            };
            return Ok((artifact, dir));
        }
        TrainData::Shards(set) => set,
    };
    let shards_dir = output.partial().join(&set.folder);
    if let Some(existing) = output.find(&set.folder)? {
        discard(&shards_dir)?;
        discard(&output.partial().join(format!("{}.sealed", set.folder)))?;
        return Ok((existing, output.root().join(&set.folder)));
    }
    check_disk_space(task, prepared, context, output, output.unfinished(&set.folder)?)?;
    let draft = output.reopen_for_sealing(R::KIND, &set.folder)?;
    let shards: Vec<PathBuf> = (0..set.shards.max(1)).map(|i| shard_path(&shards_dir, i)).collect();
    journal::seal::<R, _>(&shards, &draft.dir.join(R::KIND.payload_file()), prepared.indexed())?;
    let artifact = output.finish(draft, R::STEP, json!({"rows": prepared.len()}))?;
    discard(&shards_dir)?;
    Ok((artifact, output.root().join(&set.folder)))
}

/// Removes a folder of unfinished work, if it exists.
pub(super) fn discard(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::storage(dir)(error)),
        _ => Ok(()),
    }
}
