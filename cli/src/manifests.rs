//! Manifests: from files to admitted objects, every mistake with its file and line.

mod document;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_crds::admission::Admission;
use stic_crds::{GROUP, VERSION};

use self::document::Document;
use crate::error::{Failure, Result};

/// A run as an API server would store it, and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// With every default filled in.
    pub object: Value,
    /// Its folder, beside which `volumes/` may lie.
    pub folder: PathBuf,
    /// File and line, for messages.
    pub origin: String,
    document: Document,
}

impl Manifest {
    pub(crate) fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    /// The `StageOneRun` it starts from.
    pub(crate) fn upstream(&self) -> Option<&str> {
        self.object["spec"]["initFrom"]["stageOneRunRef"]["name"].as_str()
    }

    /// A message about one of its fields, with the line.
    pub(crate) fn about(&self, field: &str, message: impl std::fmt::Display) -> String {
        format!("{}: {message}", self.document.place(field))
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// The runs, in the order in which they can run.
    pub runs: Vec<Manifest>,
    /// Objects that mean nothing here, such as Namespaces.
    pub skipped: Vec<String>,
}

/// Reads and admits everything in `files`.
///
/// # Errors
/// All that is wrong with any of them.
pub(crate) fn load(files: &[PathBuf], namespace: &str) -> Result<Manifests> {
    let mut documents = Vec::new();
    for file in files {
        read(file, &mut documents)?;
    }
    let mut found = Manifests::default();
    let mut errors = Vec::new();
    let mut admissions: BTreeMap<String, Admission> = BTreeMap::new();
    for document in documents {
        admit(document, namespace, &mut admissions, &mut found, &mut errors)?;
    }
    refuse_duplicates(&found.runs, &mut errors);
    if !errors.is_empty() {
        let what =
            if errors.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", errors.len()) };
        return Err(Failure::config(format!("nothing was done: {what}\n  {}", errors.join("\n  "))));
    }
    if found.runs.is_empty() {
        return Err(Failure::config(format!(
            "no StageOneRun or StageTwoRun in {}; name the file that holds one with -f",
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        )));
    }
    // Only a StageTwoRun waits for others, and only for StageOneRuns.
    found.runs.sort_by_key(|run| run.kind() != "StageOneRun");
    Ok(found)
}

fn read(path: &Path, documents: &mut Vec<Document>) -> Result<()> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(Failure::storage(Path::new("standard input")))?;
        documents.extend(document::parse("standard input", Path::new("."), &text)?);
        return Ok(());
    }
    if !path.is_dir() {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let mend = match error.kind() {
                std::io::ErrorKind::InvalidData => "save the file as UTF-8",
                _ => "name a manifest or a folder of manifests",
            };
            Failure::config(format!("{}: {error}; {mend}", path.display()))
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        documents.extend(document::parse(&path.display().to_string(), folder, &text)?);
        return Ok(());
    }
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Failure::storage(path))? {
        inside.push(entry.map_err(Failure::storage(path))?.path());
    }
    inside.sort();
    for file in inside {
        let extension = file.extension().and_then(|extension| extension.to_str());
        if file.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            read(&file, documents)?;
        }
    }
    Ok(())
}

fn admit(
    document: Document,
    namespace: &str,
    admissions: &mut BTreeMap<String, Admission>,
    found: &mut Manifests,
    errors: &mut Vec<String>,
) -> Result<()> {
    let value = document.value();
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version.is_empty() || kind.is_empty() {
        errors.push(format!("{}: no Kubernetes object: apiVersion and kind must be set", document.place("")));
        return Ok(());
    }
    let known = ["StageOneRun", "StageTwoRun"].contains(&kind.as_str());
    let ours = version.split('/').next() == Some(GROUP);
    if !ours && !known {
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        found.skipped.push(format!("{kind} {name} ({})", document.place("")));
        return Ok(());
    }
    if version != format!("{GROUP}/{VERSION}") || !known {
        errors.push(format!(
            "{}: no matches for kind {kind:?} in version {version:?}: this program knows StageOneRun and StageTwoRun in {GROUP}/{VERSION}",
            document.place(if known { "apiVersion" } else { "kind" })
        ));
        return Ok(());
    }
    if !admissions.contains_key(&kind) {
        let admission = Admission::of(&kind)
            .map_err(|error| Failure::new(stic_contract::ExitCode::Bug, format!("{error}; this is a bug")))?;
        admissions.insert(kind.clone(), admission);
    }
    match admissions[&kind].admit(&value, None) {
        Ok(mut object) => {
            let metadata = &mut object["metadata"];
            if metadata.get("namespace").is_none() {
                metadata["namespace"] = json!(namespace);
            }
            found.runs.push(Manifest {
                object,
                folder: document.folder().to_owned(),
                origin: document.place(""),
                document,
            });
        }
        Err(mistakes) => {
            errors.extend(mistakes.iter().map(|mistake| {
                // Strict decoding names the field itself, as the API server's sentence does.
                let text = if mistake.message.starts_with("unknown field") {
                    mistake.message.clone()
                } else {
                    mistake.to_string()
                };
                format!("{}: {text}", document.place(&mistake.field))
            }));
        }
    }
    Ok(())
}

fn refuse_duplicates(runs: &[Manifest], errors: &mut Vec<String>) {
    for (i, run) in runs.iter().enumerate() {
        let same = |other: &&Manifest| {
            (other.kind(), other.namespace(), other.name()) == (run.kind(), run.namespace(), run.name())
        };
        if let Some(first) = runs[..i].iter().find(same) {
            errors.push(run.about(
                "metadata.name",
                format!(
                    "{} {} is already in {}: rename one of the two",
                    run.kind(),
                    run.name(),
                    first.origin
                ),
            ));
        }
    }
}

/// Checks `new` as a change of `old`.
///
/// # Errors
/// What cannot change.
pub(crate) fn check_change(new: &Manifest, old: &Value) -> Result<()> {
    let admission = Admission::of(new.kind())
        .map_err(|error| Failure::new(stic_contract::ExitCode::Bug, format!("{error}; this is a bug")))?;
    admission.admit(&new.object, Some(old)).map(|_| ()).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|mistake| new.about(&mistake.field, mistake)).collect();
        Failure::config(format!(
            "{} {} was run before with another spec\n  {}",
            new.kind(),
            new.name(),
            lines.join("\n  ")
        ))
    })
}
