//! Artifacts: folders that are whole once `_SUCCESS.json` is in them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_contract::artifact::{CreatedBy, SUCCESS_FILE, folder_name, partial_dir};
use stic_contract::{
    Artifact, ArtifactKind, ArtifactRef, Digest, RunIdentity, StepName, SuccessMarker, VolumePath,
};

use super::volumes::Volumes;
use super::{atomic, file_digest};
use crate::error::{Error, Result};

/// Beside shards: what the artifact they become is made from.
const MADE_FROM_FILE: &str = "made_from.json";

/// The run's output: finished artifacts, and the folder unfinished work lives in.
#[derive(Debug, Clone)]
pub struct Output {
    run: RunIdentity,
    location: VolumePath,
    root: PathBuf,
    partial: PathBuf,
}

/// An artifact in the making.
#[derive(Debug)]
pub struct Draft {
    kind: ArtifactKind,
    made_from: Value,
    name: String,
    /// The folder to fill.
    pub dir: PathBuf,
}

impl Draft {
    /// The name of its folder, in the making and in place.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Output {
    /// Makes the folders.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn open(run: &RunIdentity, location: &VolumePath, volumes: &Volumes) -> Result<Self> {
        let root = volumes.resolve(location)?;
        let partial = root.join(partial_dir(run));
        atomic::create_dir(&partial)?;
        Ok(Self { run: run.clone(), location: location.clone(), root, partial })
    }

    /// Where unfinished work lives.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Where finished artifacts are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the folder that holds what is made from `made_from`.
    #[must_use]
    pub fn name(&self, kind: ArtifactKind, made_from: &Value) -> String {
        folder_name(kind, made_from, &self.run)
    }

    /// The whole artifact `name`, if it is there.
    ///
    /// # Errors
    /// [`Error::Data`] when it is there and its payload has another digest.
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

    /// Begins an artifact, or goes on with it: the folder keeps what an earlier attempt left.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin(&self, kind: ArtifactKind, made_from: Value) -> Result<Draft> {
        let name = self.name(kind, &made_from);
        let dir = self.partial.join(&name);
        atomic::create_dir(&dir)?;
        Ok(Draft { kind, made_from, name, dir })
    }

    /// Begins shard `shard` of an artifact: what that is made from lies beside the shards for the step that seals them.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin_shard(&self, kind: ArtifactKind, made_from: Value, shard: u32) -> Result<Draft> {
        let draft = self.begin(kind, made_from)?;
        // Each shard writes it, and they start together: under a name of its own at first.
        let own = draft.dir.join(format!("shard-{shard:05}-{MADE_FROM_FILE}"));
        atomic::write(&own, draft.made_from.to_string().as_bytes())?;
        atomic::rename(&own, &draft.dir.join(MADE_FROM_FILE))?;
        Ok(draft)
    }

    /// A draft to seal the shards of folder `name` into; the shards stay until it is in place.
    ///
    /// # Errors
    /// [`Error::Data`] when there are no shards.
    pub fn reopen_for_sealing(&self, kind: ArtifactKind, name: &str) -> Result<Draft> {
        let path = self.partial.join(name).join(MADE_FROM_FILE);
        let made_from = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let made_from: Value = made_from.ok_or_else(|| {
            Error::Data(format!(
                "{}: not found or damaged; run the step that writes the shards again",
                path.display()
            ))
        })?;
        let dir = self.partial.join(format!("{name}.sealed"));
        atomic::create_dir(&dir)?;
        Ok(Draft { kind, made_from, name: name.to_owned(), dir })
    }

    /// The bytes of all unfinished work of which the folder's name begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn unfinished(&self, prefix: &str) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.partial).map_err(Error::storage(&self.partial))? {
            let path = entry.map_err(Error::storage(&self.partial))?.path();
            let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            if named && path.is_dir() {
                bytes += size_of(&path)?;
            }
        }
        Ok(bytes)
    }

    /// Marks the draft whole and moves it into place, unless another run was first: then that one is recorded.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] when the one in place has a payload of another digest.
    pub fn finish(&self, draft: Draft, step: StepName, facts: Value) -> Result<Artifact> {
        if let Some(there) = self.find(&draft.name)? {
            fs::remove_dir_all(&draft.dir).map_err(Error::storage(&draft.dir))?;
            return Ok(there);
        }
        let payload = draft.dir.join(draft.kind.payload_file());
        let digest = file_digest(&payload)?;
        let marker = SuccessMarker {
            kind: draft.kind,
            digest,
            size_bytes: size_of(&draft.dir)?,
            step,
            made_from: draft.made_from,
            facts,
            created_by: self.created_by(),
            made_with: build_and_machine(),
        };
        let text = serde_json::to_vec_pretty(&marker)
            .map_err(|e| Error::Storage { path: draft.dir.clone(), source: std::io::Error::other(e) })?;
        atomic::write(&draft.dir.join(SUCCESS_FILE), &text)?;
        let place = self.root.join(&draft.name);
        if let Err(error) = atomic::rename(&draft.dir, &place) {
            // Two runs that make the same artifact at once: the second finds the first one's in place.
            return match self.find(&draft.name)? {
                Some(there) => {
                    fs::remove_dir_all(&draft.dir).map_err(Error::storage(&draft.dir))?;
                    Ok(there)
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

/// The folder of an artifact some other step made, its digest verified.
///
/// # Errors
/// [`Error::Data`] when it is not whole or not what was recorded.
pub fn open_input(volumes: &Volumes, reference: &ArtifactRef) -> Result<PathBuf> {
    let dir = volumes.resolve(&reference.location)?;
    let marker = read_marker(&dir)?.ok_or_else(|| not_whole(&dir))?;
    if marker.digest != reference.digest {
        return Err(digest_differs(&dir, &reference.digest, &marker.digest));
    }
    verify(&dir, &marker)?;
    Ok(dir)
}

/// What the artifact in `dir` is, its digest verified.
///
/// # Errors
/// [`Error::Data`] when it is not whole or was changed.
pub fn inspect(dir: &Path) -> Result<SuccessMarker> {
    let marker = read_marker(dir)?.ok_or_else(|| not_whole(dir))?;
    verify(dir, &marker)?;
    Ok(marker)
}

fn not_whole(dir: &Path) -> Error {
    Error::Data(format!(
        "{}: {SUCCESS_FILE} not found; the step that makes it has not finished there",
        dir.display()
    ))
}

/// `_SUCCESS.json` of `dir`, `None` when there is none.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] when it cannot be read.
pub fn read_marker(dir: &Path) -> Result<Option<SuccessMarker>> {
    let path = dir.join(SUCCESS_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::storage(&path)(e)),
    };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        Error::Data(format!("{}: {e}; delete the folder, it will be made again", path.display()))
    })
}

fn verify(dir: &Path, marker: &SuccessMarker) -> Result<()> {
    let payload = dir.join(marker.kind.payload_file());
    let digest = file_digest(&payload)?;
    if digest == marker.digest { Ok(()) } else { Err(digest_differs(&payload, &marker.digest, &digest)) }
}

fn digest_differs(path: &Path, expected: &Digest, found: &Digest) -> Error {
    Error::Data(format!(
        "{}: has digest {found}, {expected} was recorded; the file was changed after it was made, restore it or run the step again with a raised rerun",
        path.display()
    ))
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir).map_err(Error::storage(dir))? {
        let entry = entry.map_err(Error::storage(dir))?;
        let metadata = entry.metadata().map_err(Error::storage(entry.path()))?;
        size += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}

/// What the promise of identical bytes is made for.
#[must_use]
pub fn build_and_machine() -> Value {
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "cpu": model,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use stic_contract::RunKind;

    use super::*;

    #[test]
    fn shards_that_start_together_are_not_in_each_others_way() {
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
                Ok(output.reopen_for_sealing(ArtifactKind::Preferences, &name)?.made_from)
            };
            (0..25).map(begin).collect::<Vec<Result<Value>>>()
        };
        let shards = thread::scope(|scope| {
            let shards: Vec<_> = (0..4).map(|index| scope.spawn(move || shard(index))).collect();
            shards.into_iter().map(|shard| shard.join().expect("no panic")).collect::<Vec<_>>()
        });
        for rounds in shards {
            for (round, made_from) in rounds.into_iter().enumerate() {
                assert_eq!(made_from.expect("begun, and whole"), json!({"round": round}));
            }
        }
    }
}
