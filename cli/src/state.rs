//! What is remembered of a run between two commands: `<work>/runs/<namespace>/<kind>/<name>/`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::{ArtifactKind, Digest, StepName};
use stic_crds::StageOneRun;
use stic_crds::status::{RunStatus, SUCCEEDED};

use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest};

const MANIFEST: &str = "manifest.json";
const STATUS: &str = "status.json";

/// A run's folder, locked.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    mounts: PathBuf,
    kind: String,
    namespace: String,
    name: String,
    /// The object, as an API server would hold it, without its status.
    object: Value,
    /// The status.
    pub status: RunStatus,
    /// Held until the command ends.
    _lock: File,
}

impl State {
    /// Opens the folder of a run for a manifest, which [`State::record`] keeps once the run can begin.
    ///
    /// # Errors
    /// Another command has it open, or it was run before with a spec that cannot become this one.
    pub(crate) fn open(work_dir: &Path, manifest: &Manifest) -> Result<Self> {
        let (kind, namespace, name) = (manifest.kind(), manifest.namespace(), manifest.name());
        let dir = folder(&work_dir.join("runs"), kind, namespace, name);
        std::fs::create_dir_all(&dir).map_err(Failure::storage(&dir))?;
        let lock = lock(&dir)?;
        let mut object = manifest.object.clone();
        let old: Option<Value> = read(&dir.join(MANIFEST))?;
        let mut generation = 1;
        if let Some(old) = &old {
            manifests::check_change(manifest, old)?;
            let before = old["metadata"]["generation"].as_i64().unwrap_or(1);
            generation = if old["spec"] == object["spec"] { before } else { before + 1 };
        }
        object["metadata"]["uid"] = json!(uid(kind, namespace, name));
        object["metadata"]["generation"] = json!(generation);
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        Ok(Self {
            status: read(&dir.join(STATUS))?.unwrap_or_default(),
            mounts: folder(&work_dir.join("mounts"), kind, namespace, name),
            dir,
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            object,
            _lock: lock,
        })
    }

    /// Keeps the manifest: from now on what decides the result cannot change. A run that was refused may be mended.
    pub(crate) fn record(&self) -> Result<()> {
        write(&self.dir.join(MANIFEST), &self.object)
    }

    /// A run that an earlier command finished.
    pub(crate) fn finished(
        work_dir: &Path,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<StageOneRun>> {
        let dir = folder(&work_dir.join("runs"), kind, namespace, name);
        let (object, status) = (read::<Value>(&dir.join(MANIFEST))?, read::<RunStatus>(&dir.join(STATUS))?);
        let (Some(object), Some(status)) = (object, status) else { return Ok(None) };
        let mut run: StageOneRun = serde_json::from_value(object).map_err(Failure::bug)?;
        run.status = Some(status);
        Ok(Some(run))
    }

    /// The folder of the finished run's artifact of `kind`, through the link that stood for its volume.
    ///
    /// # Errors
    /// The run is unknown, not finished, or has no such artifact.
    pub(crate) fn artifact(
        work_dir: &Path,
        (kind, namespace, name): (&str, &str, &str),
        artifact: ArtifactKind,
    ) -> Result<PathBuf> {
        let dir = folder(&work_dir.join("runs"), kind, namespace, name);
        let title = format!("{}/{name}", kind.to_lowercase());
        let Some(status) = read::<RunStatus>(&dir.join(STATUS))? else {
            return Err(Failure::config(format!(
                "{title}: no such run in {}; run its manifest, or name the folder with --work-dir",
                work_dir.display()
            )));
        };
        let succeeded = status.condition(SUCCEEDED);
        if succeeded.is_none_or(|condition| condition.status != "True") {
            let phase = succeeded.map_or("Pending", |condition| condition.reason.as_str());
            return Err(Failure::config(format!(
                "{title}: is not finished (phase {phase}); run its manifest again"
            )));
        }
        let Some(found) = status.artifacts.iter().find(|found| found.kind == artifact) else {
            let all: Vec<_> = status.artifacts.iter().map(|found| found.kind.folder_prefix()).collect();
            return Err(Failure::config(format!(
                "{title}: has no {}; it has {}",
                artifact.folder_prefix(),
                all.join(", ")
            )));
        };
        let mounts = folder(&work_dir.join("mounts"), kind, namespace, name);
        let path = mounts.join(&found.volume.claim_name).join(&found.volume.path);
        path.canonicalize().map_err(Failure::storage(&path))
    }

    pub(crate) fn is(&self, kind: &str, namespace: &str, name: &str) -> bool {
        (self.kind.as_str(), self.namespace.as_str(), self.name.as_str()) == (kind, namespace, name)
    }

    /// The object with its status, as its Rust type.
    pub(crate) fn typed<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.object()?).map_err(Failure::bug)
    }

    /// The object with its status.
    pub(crate) fn object(&self) -> Result<Value> {
        let mut object = self.object.clone();
        object["status"] = serde_json::to_value(&self.status).map_err(Failure::bug)?;
        Ok(object)
    }

    pub(crate) fn generation(&self) -> i64 {
        self.object["metadata"]["generation"].as_i64().unwrap_or(1)
    }

    pub(super) fn rerun(&self) -> u32 {
        self.object["spec"]["rerun"].as_u64().and_then(|rerun| u32::try_from(rerun).ok()).unwrap_or_default()
    }

    /// `stageonerun/scenes`, as kubectl writes it.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    /// Whether it is done.
    pub(crate) fn succeeded(&self) -> bool {
        self.status.condition(SUCCEEDED).is_some_and(|condition| condition.status == "True")
    }

    /// The folder with a link per volume.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.mounts.clone()
    }

    pub(crate) fn config(&self, step: StepName) -> PathBuf {
        self.dir.join(format!("{step}.json"))
    }

    pub(crate) fn log(&self, step: StepName) -> PathBuf {
        self.dir.join(format!("{step}.log"))
    }

    /// Where the trainer writes what it says at the end of an attempt.
    pub(crate) fn said(&self, step: StepName, shard: u32) -> PathBuf {
        self.dir.join(format!("{step}-{shard:05}.said.json"))
    }

    /// The folder of what finished steps said.
    pub(crate) fn records(&self, rerun: u32) -> PathBuf {
        self.dir.join(format!("records-{rerun}"))
    }

    /// Takes over a status, and writes it if it is another.
    pub(crate) fn set_status(&mut self, status: RunStatus) -> Result<()> {
        if status == self.status {
            return Ok(());
        }
        self.status = status;
        write(&self.dir.join(STATUS), &self.status)
    }
}

fn folder(root: &Path, kind: &str, namespace: &str, name: &str) -> PathBuf {
    root.join(namespace).join(kind.to_lowercase()).join(name)
}

// The same run on the same machine is the same one tomorrow: it finds its unfinished work by this.
fn uid(kind: &str, namespace: &str, name: &str) -> String {
    let hex = Digest::of_json(&json!(["local", kind, namespace, name])).short(32);
    let parts: Vec<&str> =
        [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().filter_map(|range| hex.get(range)).collect();
    parts.join("-")
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(Failure::storage(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::config(format!(
            "another kubectl stic run has {} open; wait for it, or use another --work-dir",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Failure::storage(&path)(error)),
    }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(
                stic_contract::ExitCode::StorageFailed,
                format!("{}: {error}; remove the file and run the same command again", path.display()),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::storage(path)(error)),
    }
}

/// Replaces a file whole.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(Failure::bug)?;
    bytes.push(b'\n');
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path)).map_err(|error| {
        // Half a file is of no use to anyone.
        let _ = std::fs::remove_file(&new);
        Failure::storage(path)(error)
    })
}

pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}
