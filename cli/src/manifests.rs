//! Manifests: from files to admitted objects. Every mistake is reported with its file and line.

mod document;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_contract::RunKind;
use stic_crds::admission::Admission;
use stic_crds::{GROUP, VERSION};

use self::document::Document;
use crate::error::{Failure, Result};
use crate::run_name::RunName;

/// A run as an API server would store it, and the place it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub name: RunName,
    pub namespace: String,
    /// The object with all defaults filled in.
    pub object: Value,
    /// The folder of the file, in which `volumes/` is looked up.
    pub folder: PathBuf,
    document: Document,
}

impl Manifest {
    fn new(kind: RunKind, document: Document, mut object: Value, default_namespace: &str) -> Self {
        let metadata = &mut object["metadata"];
        if metadata.get("namespace").is_none() {
            metadata["namespace"] = json!(default_namespace);
        }
        Self {
            name: RunName::new(kind, metadata["name"].as_str().unwrap_or_default()),
            namespace: metadata["namespace"].as_str().unwrap_or_default().to_owned(),
            object,
            folder: document.folder().to_owned(),
            document,
        }
    }

    pub(crate) const fn kind(&self) -> RunKind {
        self.name.kind
    }

    /// The runs that it starts from, each with the field that names it.
    pub(crate) fn upstreams(&self) -> Vec<(RunName, String)> {
        let reference = |parent: &Value, path: &str, field: &str, kind: RunKind| {
            let name = parent[field]["name"].as_str()?;
            Some((RunName::new(kind, name), format!("{path}.{field}.name")))
        };
        let spec = &self.object["spec"];
        let start = reference(&spec["initFrom"], "spec.initFrom", "stageOneRunRef", RunKind::StageOneRun);
        let subjects = spec["subjects"].as_array().into_iter().flatten().enumerate();
        let of_subjects = subjects.flat_map(|(i, subject)| {
            let path = format!("spec.subjects[{i}]");
            let one = reference(subject, &path, "stageOneRunRef", RunKind::StageOneRun);
            let two = reference(subject, &path, "stageTwoRunRef", RunKind::StageTwoRun);
            one.into_iter().chain(two)
        });
        start.into_iter().chain(of_subjects).collect()
    }

    /// Whether this is the manifest of `name` in `namespace`.
    pub(crate) fn is(&self, namespace: &str, name: &RunName) -> bool {
        self.namespace == namespace && self.name == *name
    }

    /// A message about one of the fields, with file and line.
    pub(crate) fn message_at(&self, field: &str, message: impl std::fmt::Display) -> String {
        format!("{}: {message}", self.document.location(field))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// The runs, in an order in which they can run.
    pub runs: Vec<Manifest>,
    /// The data of ConfigMaps, by name.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Objects of other kinds, such as Namespaces, for messages.
    pub skipped: Vec<String>,
}

/// Reads and admits all manifests in `files`.
///
/// # Errors
/// Everything that is wrong with any of them.
pub(crate) fn load(files: &[PathBuf], namespace: &str) -> Result<Manifests> {
    let mut documents = Vec::new();
    for file in files {
        read(file, &mut documents)?;
    }
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    let mut admissions = BTreeMap::new();
    for document in documents {
        admit(document, namespace, &mut admissions, &mut manifests, &mut errors)?;
    }
    errors.extend(duplicates(&manifests.runs));
    if !errors.is_empty() {
        let count =
            if errors.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", errors.len()) };
        return Err(Failure::config(format!("nothing was done: {count}\n  {}", errors.join("\n  "))));
    }
    if manifests.runs.is_empty() {
        let note = if files.iter().any(|file| file.is_dir()) { " (subfolders are not searched)" } else { "" };
        return Err(Failure::config(format!(
            "no {} in {}{note}. Give a file that contains one with -f.",
            kinds(" or "),
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        )));
    }
    // A run depends only on runs of the kinds before its own.
    manifests.runs.sort_by_key(Manifest::kind);
    Ok(manifests)
}

/// The kinds of runs, such as `StageOneRun, StageTwoRun and EvaluationRun`.
fn kinds(last: &str) -> String {
    let names = RunKind::ALL.map(RunKind::as_str);
    let (end, start) = names.split_last().unwrap_or((&"", &[]));
    format!("{}{last}{end}", start.join(", "))
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
            let fix = match error.kind() {
                std::io::ErrorKind::InvalidData => "Save the file as UTF-8.",
                _ => "Give a manifest or a folder of manifests.",
            };
            Failure::config(format!("{}: {error}. {fix}", path.display()))
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        documents.extend(document::parse(&path.display().to_string(), folder, &text)?);
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Failure::storage(path))? {
        entries.push(entry.map_err(Failure::storage(path))?.path());
    }
    entries.sort();
    for file in entries {
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
    admissions: &mut BTreeMap<RunKind, Admission>,
    manifests: &mut Manifests,
    errors: &mut Vec<String>,
) -> Result<()> {
    let value = document.value();
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind_name) = (text("apiVersion"), text("kind"));
    if version.is_empty() || kind_name.is_empty() {
        errors.push(format!("{}: not a Kubernetes object: set apiVersion and kind", document.location("")));
        return Ok(());
    }
    let kind = kind_name.parse::<RunKind>();
    let is_our_group = version.split('/').next() == Some(GROUP);
    let kind = match kind {
        Ok(kind) if version == format!("{GROUP}/{VERSION}") => kind,
        Err(_) if kind_name == "ConfigMap" && version == "v1" => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let data = value["data"].as_object().into_iter().flatten();
            let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
            manifests.config_maps.insert(name, data.filter_map(text).collect());
            return Ok(());
        }
        Err(_) if !is_our_group => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            manifests.skipped.push(format!("{kind_name} {name} ({})", document.location("")));
            return Ok(());
        }
        _ => {
            errors.push(format!(
                "{}: no matches for kind {kind_name:?} in version {version:?}: this program supports {} in {GROUP}/{VERSION}",
                document.location(if kind.is_ok() { "apiVersion" } else { "kind" }),
                kinds(" and ")
            ));
            return Ok(());
        }
    };
    let admission = match admissions.entry(kind) {
        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(Admission::of(kind).map_err(Failure::bug)?)
        }
    };
    match admission.admit(&value, None) {
        Ok(object) => manifests.runs.push(Manifest::new(kind, document, object, namespace)),
        Err(mistakes) => errors.extend(mistakes.iter().map(|mistake| {
            // As on the API server, the message about an unknown field contains the field itself.
            let text = if mistake.message.starts_with("unknown field") {
                mistake.message.clone()
            } else {
                mistake.to_string()
            };
            format!("{}: {text}", document.location(&mistake.field))
        })),
    }
    Ok(())
}

/// A message for every run that has the kind, namespace and name of an earlier one.
fn duplicates(runs: &[Manifest]) -> Vec<String> {
    let mut messages = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        if let Some(first) = runs[..i].iter().find(|other| other.is(&run.namespace, &run.name)) {
            let message =
                format!("{} is already in {}: rename one of the two", run.name, first.document.location(""));
            messages.push(run.message_at("metadata.name", message));
        }
    }
    messages
}

/// Checks the change from `old` to `new`.
///
/// # Errors
/// If an immutable field was changed.
pub(crate) fn check_change(new: &Manifest, old: &Value) -> Result<()> {
    let admission = Admission::of(new.kind()).map_err(Failure::bug)?;
    admission.admit(&new.object, Some(old)).map(|_| ()).map_err(|mistakes| {
        let lines: Vec<String> =
            mistakes.iter().map(|mistake| new.message_at(&mistake.field, mistake)).collect();
        Failure::config(format!("{} has run before with another spec\n  {}", new.name, lines.join("\n  ")))
    })
}
