//! Reads runs, from a work folder with their files, or from a cluster with their statuses.

use std::path::{Path, PathBuf};

use serde_json::Value;
use stic_contract::{ArtifactKind, ExitCode, RunKind};
use stic_crds::RunStatus;

use super::files::{self, METRICS_FILE, ResultRow, StepMetrics};
use crate::args::ReportArgs;
use crate::cluster;
use crate::error::{Failure, Result};
use crate::run_name::RunName;
use crate::state::{self, State};

/// A run as it was found.
#[derive(Debug)]
pub(super) struct SourceRun {
    pub name: RunName,
    pub spec: Value,
    pub status: RunStatus,
    /// The rows of `results.json`; `None` if it cannot be read from here.
    pub results: Option<Vec<ResultRow>>,
    /// The lines of `metrics.jsonl`.
    pub steps: Vec<StepMetrics>,
    pub notes: Vec<String>,
}

/// Where the runs are, in words, and the runs.
pub(super) fn gather(args: &ReportArgs) -> Result<(String, Vec<SourceRun>)> {
    match &args.work_dir {
        Some(work_dir) => {
            let namespace = args.connection.namespace.as_deref().unwrap_or("default");
            Ok((format!("work folder {}", work_dir.display()), local(work_dir, namespace, &args.runs)?))
        }
        None => {
            let found = cluster::list(&args.connection)?;
            let runs = found.runs.into_iter().map(|run| on_cluster(run.name, &run.object, run.status));
            let missing = |name: &RunName| {
                format!(
                    "{name} does not exist in namespace {}. List the runs with kubectl stic get, or select another namespace with --namespace.",
                    found.namespace
                )
            };
            Ok((format!("namespace {}", found.namespace), select(runs.collect(), &args.runs, missing)?))
        }
    }
}

/// The runs of a work folder, with the files that the report reads.
pub(super) fn local(work_dir: &Path, namespace: &str, names: &[RunName]) -> Result<Vec<SourceRun>> {
    if !work_dir.is_dir() {
        return Err(Failure::config(format!(
            "--work-dir {}: no such folder. Give the work folder of kubectl stic run.",
            work_dir.display()
        )));
    }
    let mut runs = Vec::new();
    for name in State::names(work_dir, namespace)? {
        let Some(mut object) = State::load_earlier(work_dir, namespace, &name)? else { continue };
        let status = serde_json::from_value(object["status"].take()).map_err(|error| {
            Failure::new(
                ExitCode::StorageFailed,
                format!("cannot parse the status of {name}: {error}. Use the kubectl-stic that wrote it."),
            )
        })?;
        runs.push(new_run(name, object["spec"].take(), status));
    }
    let missing = |name: &RunName| {
        format!(
            "{name} has not run in the work folder {}. Run its manifest, or select another work folder with --work-dir.",
            work_dir.display()
        )
    };
    let mut runs = select(runs, names, missing)?;
    for run in &mut runs {
        read_files(run, work_dir, namespace);
    }
    Ok(runs)
}

fn new_run(name: RunName, spec: Value, status: RunStatus) -> SourceRun {
    SourceRun { name, spec, status, results: None, steps: Vec::new(), notes: Vec::new() }
}

/// The runs that are named, and those that they start from or evaluate; all without names.
fn select(
    mut runs: Vec<SourceRun>,
    names: &[RunName],
    missing: impl Fn(&RunName) -> String,
) -> Result<Vec<SourceRun>> {
    if let Some(name) = names.iter().find(|name| !runs.iter().any(|run| run.name == **name)) {
        return Err(Failure::config(missing(name)));
    }
    if !names.is_empty() {
        let mut wanted = names.to_vec();
        // A run refers only to kinds before its own, so kinds from last to first find all.
        runs.sort_by_key(|run| std::cmp::Reverse(run.name.kind));
        for run in &runs {
            if wanted.contains(&run.name) {
                wanted.extend(references(&run.spec).into_iter().map(|(_, name)| name));
            }
        }
        runs.retain(|run| wanted.contains(&run.name));
    }
    runs.sort_by(|a, b| (a.name.kind, &a.name.name).cmp(&(b.name.kind, &b.name.name)));
    Ok(runs)
}

/// The runs that a spec names: what a training starts from, and the models of an evaluation with their names in it.
pub(super) fn references(spec: &Value) -> Vec<(Option<String>, RunName)> {
    let named = |parent: &Value, field: &str, kind: RunKind| {
        parent[field]["name"].as_str().map(|name| RunName::new(kind, name))
    };
    let of = |parent: &Value| {
        let one = named(parent, "stageOneRunRef", RunKind::StageOneRun);
        one.or_else(|| named(parent, "stageTwoRunRef", RunKind::StageTwoRun))
    };
    let start = of(&spec["initFrom"]).map(|run| (None, run));
    let subjects = spec["subjects"].as_array().into_iter().flatten();
    let subjects =
        subjects.filter_map(|subject| Some((subject["name"].as_str().map(ToOwned::to_owned), of(subject)?)));
    start.into_iter().chain(subjects).collect()
}

/// Reads what lies on the volumes. What cannot be read becomes a note: it must not hide the other runs.
fn read_files(run: &mut SourceRun, work_dir: &Path, namespace: &str) {
    let kind = match run.name.kind {
        RunKind::EvaluationRun => ArtifactKind::Results,
        RunKind::StageOneRun | RunKind::StageTwoRun => ArtifactKind::Adapter,
    };
    if run.status.succeeded() != Some(true) {
        run.notes.push(not_finished(run, kind));
        return;
    }
    let read = State::artifact(work_dir, namespace, &run.name, kind).and_then(|folder| match kind {
        ArtifactKind::Results => read_results(run, &folder.join(kind.spec().payload_file)),
        _ => read_metrics(run, folder.join(METRICS_FILE)),
    });
    if let Err(failure) = read {
        let message = failure.message.unwrap_or_default();
        let name = run.name.to_string();
        run.notes.push(if message.starts_with(&name) { message } else { format!("{name}: {message}") });
    }
}

fn read_results(run: &mut SourceRun, path: &Path) -> Result<()> {
    run.results = state::read(path)?;
    if run.results.is_none() {
        run.notes.push(format!("{}: {} is missing; only headlines are shown.", run.name, path.display()));
    }
    Ok(())
}

fn read_metrics(run: &mut SourceRun, path: PathBuf) -> Result<()> {
    let text = std::fs::read_to_string(&path).map_err(Failure::storage(&path))?;
    run.steps = files::steps(&text);
    Ok(())
}

/// A run of a cluster, whose volumes cannot be read from here.
pub(super) fn on_cluster(name: RunName, object: &Value, status: RunStatus) -> SourceRun {
    let mut run = new_run(name, object["spec"].clone(), status);
    let (kind, what) = match run.name.kind {
        RunKind::EvaluationRun => {
            (ArtifactKind::Results, "the intervals of scores and all other metrics are in results.csv")
        }
        RunKind::StageOneRun | RunKind::StageTwoRun => {
            (ArtifactKind::Adapter, "the metrics of every step are in metrics.jsonl")
        }
    };
    let note = match run.status.artifacts.iter().find(|artifact| artifact.kind == kind) {
        Some(artifact) => format!(
            "{}: {what} in the folder {} of the claim {}.",
            run.name, artifact.volume.path, artifact.volume.claim_name
        ),
        None => not_finished(&run, kind),
    };
    run.notes.push(note);
    run
}

fn not_finished(run: &SourceRun, kind: ArtifactKind) -> String {
    let phase = run.status.phase().unwrap_or("Pending");
    format!("{}: no {} yet (phase {phase}).", run.name, kind.folder_prefix())
}
