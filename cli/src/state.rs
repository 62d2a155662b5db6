//! The state of a local run, kept between two commands in `<work>/runs/<namespace>/<kind>/<name>/`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::{ArtifactKind, Digest, ExitCode, RunKind, StepName};
use stic_crds::RunStatus;

use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest};
use crate::run_name::RunName;

const MANIFEST: &str = "manifest.json";
const STATUS: &str = "status.json";

/// The folder of a run, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    mounts: PathBuf,
    namespace: String,
    name: RunName,
    /// The object as an API server would store it, without its status.
    object: Value,
    pub status: RunStatus,
    _lock: File,
}

impl State {
    /// Opens the folder of a manifest's run. [`State::save_manifest`] stores the manifest once the run can start.
    ///
    /// # Errors
    /// If another command has it open, or it has run before with a spec that cannot be changed to this one.
    pub(crate) fn open(work_dir: &Path, manifest: &Manifest) -> Result<Self> {
        let Manifest { name, namespace, .. } = manifest;
        let dir = run_dir(work_dir, namespace, name);
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
        object["metadata"]["uid"] = json!(uid(namespace, name));
        object["metadata"]["generation"] = json!(generation);
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        Ok(Self {
            status: read(&dir.join(STATUS))?.unwrap_or_default(),
            mounts: mounts_dir(work_dir, namespace, name),
            dir,
            namespace: namespace.clone(),
            name: name.clone(),
            object,
            _lock: lock,
        })
    }

    /// Stores the manifest. From then on, immutable fields cannot be changed; a run that was refused before can be fixed.
    pub(crate) fn save_manifest(&self) -> Result<()> {
        write(&self.dir.join(MANIFEST), &self.object)
    }

    /// The object of a run of an earlier command, with its status; `None` if there is none in this work folder.
    pub(crate) fn load_earlier(work_dir: &Path, namespace: &str, name: &RunName) -> Result<Option<Value>> {
        let dir = run_dir(work_dir, namespace, name);
        let (object, status) = (read::<Value>(&dir.join(MANIFEST))?, read::<Value>(&dir.join(STATUS))?);
        Ok(object.zip(status).map(|(mut object, status)| {
            object["status"] = status;
            object
        }))
    }

    /// The runs that have run in a work folder.
    pub(crate) fn names(work_dir: &Path, namespace: &str) -> Result<Vec<RunName>> {
        let mut names = Vec::new();
        for kind in RunKind::ALL {
            let dir = work_dir.join("runs").join(namespace).join(kind.as_str().to_lowercase());
            let entries = match std::fs::read_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Failure::storage(&dir))?,
            };
            for entry in entries {
                let entry = entry.map_err(Failure::storage(&dir))?;
                names.extend(entry.file_name().to_str().map(|name| RunName::new(kind, name)));
            }
        }
        Ok(names)
    }

    /// The folder of an artifact of a finished run.
    ///
    /// # Errors
    /// If the run is unknown or unfinished, or has no such artifact.
    pub(crate) fn artifact(
        work_dir: &Path,
        namespace: &str,
        name: &RunName,
        kind: ArtifactKind,
    ) -> Result<PathBuf> {
        let Some(status) = read::<RunStatus>(&run_dir(work_dir, namespace, name).join(STATUS))? else {
            return Err(Failure::config(format!(
                "{name} has not run in the work folder {}. Run its manifest, or select another work folder with --work-dir.",
                work_dir.display()
            )));
        };
        if status.succeeded() != Some(true) {
            let phase = status.phase().unwrap_or("Pending");
            return Err(Failure::config(format!(
                "{name} has not succeeded (phase {phase}). Run its manifest again."
            )));
        }
        let Some(artifact) = status.artifacts.iter().find(|artifact| artifact.kind == kind) else {
            let kinds: Vec<_> =
                status.artifacts.iter().map(|artifact| artifact.kind.folder_prefix()).collect();
            return Err(Failure::config(format!(
                "{name} has no artifact {}. It has {}.",
                kind.folder_prefix(),
                kinds.join(", ")
            )));
        };
        let mounts = mounts_dir(work_dir, namespace, name);
        let path = mounts.join(&artifact.volume.claim_name).join(&artifact.volume.path);
        path.canonicalize().map_err(Failure::storage(&path))
    }

    /// Whether this is the state of `name` in `namespace`.
    pub(crate) fn is(&self, namespace: &str, name: &RunName) -> bool {
        self.namespace == namespace && self.name == *name
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

    /// `stageonerun/scenes`, as kubectl writes it.
    pub(crate) fn title(&self) -> String {
        self.name.to_string()
    }

    pub(crate) fn has_succeeded(&self) -> bool {
        self.status.succeeded() == Some(true)
    }

    /// The folder with a link per volume, which the trainer uses like mounted volumes.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.mounts.clone()
    }

    pub(crate) fn config(&self, step: StepName) -> PathBuf {
        self.dir.join(format!("{step}.json"))
    }

    pub(crate) fn log(&self, step: StepName) -> PathBuf {
        self.dir.join(format!("{step}.log"))
    }

    /// The file to which the trainer writes the result of a shard.
    pub(crate) fn result_file(&self, step: StepName, shard: u32) -> PathBuf {
        self.dir.join(format!("{step}-{shard:05}.result.json"))
    }

    /// The folder with the results of finished steps.
    pub(crate) fn results_dir(&self, rerun: u32) -> PathBuf {
        self.dir.join(format!("results-{rerun}"))
    }

    /// Replaces the status, and writes it if it has changed.
    pub(crate) fn set_status(&mut self, status: RunStatus) -> Result<()> {
        if status == self.status {
            return Ok(());
        }
        self.status = status;
        write(&self.dir.join(STATUS), &self.status)
    }
}

fn run_dir(work_dir: &Path, namespace: &str, name: &RunName) -> PathBuf {
    work_dir.join("runs").join(namespace).join(name.to_string())
}

fn mounts_dir(work_dir: &Path, namespace: &str, name: &RunName) -> PathBuf {
    work_dir.join("mounts").join(namespace).join(name.to_string())
}

// The UID is the same in every command on the same work folder, because unfinished work is found by it.
fn uid(namespace: &str, name: &RunName) -> String {
    let hex = Digest::of_json(&json!(["local", name.kind, namespace, name.name])).short(32);
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
            "another kubectl stic run uses {}. Wait for it, or use another --work-dir.",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Failure::storage(&path)(error)),
    }
}

/// Reads a JSON file; `None` if it does not exist.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(
                ExitCode::StorageFailed,
                format!("{}: {error}. Remove the file and run the same command again.", path.display()),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::storage(path)(error)),
    }
}

/// Replaces a JSON file atomically.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(Failure::bug)?;
    bytes.push(b'\n');
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path)).map_err(|error| {
        // Do not leave an incomplete file behind.
        let _ = std::fs::remove_file(&new);
        Failure::storage(path)(error)
    })
}

pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}
