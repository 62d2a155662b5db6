//! Folders of journals that all runs on a volume share.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_contract::{Digest, RunIdentity};

use crate::error::{Error, Result};
use crate::io::atomic;

/// In each folder: what its name is a digest of.
const KEY_FILE: &str = "made_from.json";

/// A folder of journals whose rows depend on nothing but their ids and `key`. Each run writes journals of its own, and reads
/// those of all.
pub(super) struct JournalFolder {
    key: Value,
    pub(super) dir: PathBuf,
    /// Of the names of the run's own journals.
    prefix: String,
}

impl JournalFolder {
    /// The folder for `key` under `parent`. From rerun 1 on, the run is part of the key, so that a rerun reuses nothing.
    pub(super) fn new(parent: &Path, mut key: Value, run: &RunIdentity) -> Self {
        if run.rerun > 0 {
            key["uid"] = json!(run.uid);
            key["rerun"] = json!(run.rerun);
        }
        let dir = parent.join(Digest::of_json(&key).short(16));
        Self { key, dir, prefix: format!("{}-{}", run.uid, run.rerun) }
    }

    /// Creates the folder, and returns the path of the journal of one of the run's shards.
    pub(super) fn create(&self, shard: u32) -> Result<PathBuf> {
        atomic::create_dir(&self.dir)?;
        let own = format!("{}-{shard:05}", self.prefix);
        // Others may write the same file at the same time, so each writes under a name of its own first.
        let partial = self.dir.join(format!("{own}.{KEY_FILE}"));
        fs::write(&partial, format!("{:#}\n", self.key)).map_err(Error::storage(&partial))?;
        atomic::rename(&partial, &self.dir.join(KEY_FILE))?;
        Ok(self.dir.join(format!("{own}.jsonl")))
    }

    /// All journals in the folder by name, but the run's own before the others. None if there is no folder.
    pub(super) fn journals(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::storage(&self.dir)(error)),
        };
        let mut journals = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::storage(&self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_own = name.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-'));
                journals.push((!is_own, path.clone()));
            }
        }
        journals.sort();
        Ok(journals.into_iter().map(|(_, path)| path).collect())
    }
}
