//! The output folder of a run, and how an artifact appears in it whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stic_contract::artifact::{CreatedBy, SUCCESS_FILE, folder_name, partial_dir};
use stic_contract::{Artifact, ArtifactKind, RunIdentity, StepName, SuccessMarker, VolumePath};

use super::marker::{read_marker, verify};
use super::provenance::build_and_machine;
use crate::error::{Error, Result};
use crate::io::disk_usage::disk_usage;
use crate::io::volumes::Volumes;
use crate::io::{atomic, file_digest};

/// Beside shards: the inputs of the artifact that the shards become.
const INPUTS_FILE: &str = "made_from.json";

/// The output folder of a run: finished artifacts, and the folder of unfinished work.
#[derive(Debug, Clone)]
pub struct Output {
    run: RunIdentity,
    location: VolumePath,
    root: PathBuf,
    partial: PathBuf,
}

/// An artifact that is not finished.
#[derive(Debug)]
pub struct Draft {
    kind: ArtifactKind,
    /// What the artifact is a function of; its name is derived from it.
    inputs: Value,
    name: String,
    /// The folder to fill.
    pub dir: PathBuf,
}

impl Draft {
    /// The name of the artifact's folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Output {
    /// Creates the folders.
    ///
    /// # Errors
    /// [`Error::Config`] for a file in the place of a folder; [`Error::Storage`].
    pub fn open(run: &RunIdentity, location: &VolumePath, volumes: &Volumes) -> Result<Self> {
        let root = volumes.resolve(location)?;
        let partial = root.join(partial_dir(run));
        if let Some(file) = partial.ancestors().find(|part| part.is_file()) {
            return Err(Error::Config(format!(
                "spec.output.volume.path: {} is a file where a folder is needed; remove it or choose another path",
                file.display()
            )));
        }
        atomic::create_dir(&partial)?;
        Ok(Self { run: run.clone(), location: location.clone(), root, partial })
    }

    /// The folder of unfinished work.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// The folder of finished artifacts.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the folder of the artifact that is created from `inputs`.
    #[must_use]
    pub fn name(&self, kind: ArtifactKind, inputs: &Value) -> String {
        folder_name(kind, inputs, &self.run)
    }

    /// The finished artifact `name`, if it exists.
    ///
    /// # Errors
    /// [`Error::Data`] when it exists and its payload has another digest.
    pub fn find(&self, name: &str) -> Result<Option<Artifact>> {
        let dir = self.root.join(name);
        let Some(marker) = read_marker(&dir)? else { return Ok(None) };
        verify(&dir, &marker)?;
        Ok(Some(Artifact {
            kind: marker.kind,
            location: self.location.join(name),
            digest: marker.digest,
            size_bytes: marker.size_bytes,
            step: marker.step,
            reused: marker.created_by != self.created_by(),
        }))
    }

    /// Begins an artifact, or continues it: the folder keeps the work of an earlier attempt.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin(&self, kind: ArtifactKind, inputs: Value) -> Result<Draft> {
        let name = self.name(kind, &inputs);
        let dir = self.partial.join(&name);
        atomic::create_dir(&dir)?;
        Ok(Draft { kind, inputs, name, dir })
    }

    /// Begins shard `shard` of an artifact, and writes the inputs beside it for the step that seals the shards.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin_shard(&self, kind: ArtifactKind, inputs: Value, shard: u32) -> Result<Draft> {
        let draft = self.begin(kind, inputs)?;
        // Shards start at the same time and write the same file, so each writes under a name of its own first.
        let own = draft.dir.join(format!("shard-{shard:05}-{INPUTS_FILE}"));
        atomic::write(&own, draft.inputs.to_string().as_bytes())?;
        atomic::rename(&own, &draft.dir.join(INPUTS_FILE))?;
        Ok(draft)
    }

    /// A draft to merge the shards of folder `name` into. The shards stay until it is finished.
    ///
    /// # Errors
    /// [`Error::Data`] when there are no shards.
    pub fn reopen_for_sealing(&self, kind: ArtifactKind, name: &str) -> Result<Draft> {
        let path = self.partial.join(name).join(INPUTS_FILE);
        let inputs = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let inputs: Value = inputs.ok_or_else(|| {
            Error::Data(format!(
                "{}: not found or damaged; run the step that writes the shards again",
                path.display()
            ))
        })?;
        let dir = self.partial.join(format!("{name}.sealed"));
        atomic::create_dir(&dir)?;
        Ok(Draft { kind, inputs, name: name.to_owned(), dir })
    }

    /// The bytes of all unfinished work in folders whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn unfinished(&self, prefix: &str) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.partial).map_err(Error::storage(&self.partial))? {
            let path = entry.map_err(Error::storage(&self.partial))?.path();
            let matches = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            if matches && path.is_dir() {
                bytes += disk_usage(&path)?.bytes;
            }
        }
        Ok(bytes)
    }

    /// Marks the draft complete and moves it into place. Where another run has finished the same artifact, the draft is
    /// deleted and that artifact is returned.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] when the existing artifact has a payload of another digest.
    pub fn finish(&self, draft: Draft, step: StepName, facts: Value) -> Result<Artifact> {
        if let Some(existing) = self.find(&draft.name)? {
            fs::remove_dir_all(&draft.dir).map_err(Error::storage(&draft.dir))?;
            return Ok(existing);
        }
        let spec = draft.kind.spec();
        let mut size_bytes = 0;
        let mut digest_of = |name: &str| {
            let path = draft.dir.join(name);
            size_bytes += fs::metadata(&path).map_err(Error::storage(&path))?.len();
            file_digest(&path)
        };
        let digest = digest_of(spec.payload_file)?;
        let companions = spec.companions.iter().map(|name| Ok(((*name).to_owned(), digest_of(name)?)));
        let companions = companions.collect::<Result<_>>()?;
        let marker = SuccessMarker {
            kind: draft.kind,
            digest,
            companions,
            size_bytes,
            step,
            made_from: draft.inputs,
            facts,
            created_by: self.created_by(),
            made_with: build_and_machine(),
        };
        let text = serde_json::to_vec_pretty(&marker)
            .map_err(|e| Error::Storage { path: draft.dir.clone(), source: std::io::Error::other(e) })?;
        atomic::write(&draft.dir.join(SUCCESS_FILE), &text)?;
        let place = self.root.join(&draft.name);
        if let Err(error) = atomic::rename(&draft.dir, &place) {
            // Another run may have finished the same artifact in the meantime.
            return match self.find(&draft.name)? {
                Some(existing) => {
                    fs::remove_dir_all(&draft.dir).map_err(Error::storage(&draft.dir))?;
                    Ok(existing)
                }
                None => Err(error),
            };
        }
        Ok(Artifact {
            kind: marker.kind,
            location: self.location.join(&draft.name),
            digest: marker.digest,
            size_bytes: marker.size_bytes,
            step,
            reused: false,
        })
    }

    fn created_by(&self) -> CreatedBy {
        CreatedBy { uid: self.run.uid.clone(), rerun: self.run.rerun }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use serde_json::json;
    use stic_contract::RunKind;

    use super::*;

    #[test]
    fn shards_that_start_at_the_same_time_do_not_disturb_each_other() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("stic")).expect("a volume");
        let run = RunIdentity {
            kind: RunKind::StageOneRun,
            namespace: "default".into(),
            name: "r".into(),
            uid: "u".into(),
            rerun: 0,
        };
        let location = VolumePath { volume: "stic".into(), path: "out".into() };
        let output = Output::open(&run, &location, &Volumes::new(root.path().into())).expect("opened");
        let together = Barrier::new(4);
        let shard = &|shard: u32| {
            let begin = |round: u32| {
                together.wait();
                let name =
                    output.begin_shard(ArtifactKind::Preferences, json!({"round": round}), shard)?.name;
                Ok(output.reopen_for_sealing(ArtifactKind::Preferences, &name)?.inputs)
            };
            (0..25).map(begin).collect::<Vec<Result<Value>>>()
        };
        let shards = thread::scope(|scope| {
            let shards: Vec<_> = (0..4).map(|index| scope.spawn(move || shard(index))).collect();
            shards.into_iter().map(|shard| shard.join().expect("no panic")).collect::<Vec<_>>()
        });
        for rounds in shards {
            for (round, inputs) in rounds.into_iter().enumerate() {
                assert_eq!(inputs.expect("begun"), json!({"round": round}));
            }
        }
    }
}
