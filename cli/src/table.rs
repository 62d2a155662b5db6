//! The artifacts and scores of local runs, as tables or as JSON.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::json;
use stic_contract::{ArtifactKind, VolumePath};
use stic_crds::status::ArtifactStatus;

use crate::error::{Failure, Result};
use crate::format::{artifact_state, short_digest, size};
use crate::manifests::Manifest;
use crate::results;
use crate::state::State;
use crate::stdio;
use crate::volumes::Volumes;

/// Prints the artifacts of the runs that have succeeded, their scores, and how to load the last adapter.
pub(crate) fn print(states: &[State], manifests: &[Manifest], volumes: &Volumes) -> Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["RUN", "ARTIFACT", "", "SIZE", "DIGEST", "FOLDER"]);
    let mut last_adapter = None;
    for (state, manifest) in states.iter().zip(manifests).filter(|(state, _)| state.has_succeeded()) {
        for artifact in &state.status.artifacts {
            let folder = folder(artifact, manifest, volumes);
            table.add_row([
                state.title(),
                artifact.kind.folder_prefix().to_owned(),
                artifact_state(artifact.state).to_owned(),
                size(artifact.size_bytes),
                short_digest(&artifact.digest),
                folder.clone(),
            ]);
            if artifact.kind == ArtifactKind::Adapter {
                last_adapter = Some((state, manifest, folder));
            }
        }
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if table.row_count() > 0 {
        stdio::print("")?;
        for line in table.lines() {
            stdio::print(line.trim_end())?;
        }
    }
    for state in states.iter().filter(|state| !state.status.results.is_empty()) {
        stdio::print(format_args!("\nScores of {}:\n", state.title()))?;
        results::lines(&state.status.results)
            .iter()
            .try_for_each(|line| stdio::print(format_args!(" {line}")))?;
    }
    match last_adapter {
        Some((state, manifest, adapter)) => {
            let model = model(state, manifest, volumes).unwrap_or_else(|| "<the base model>".into());
            print_peft_example(&state.title(), &model, &adapter)
        }
        None => Ok(()),
    }
}

fn print_peft_example(title: &str, model: &str, adapter: &str) -> Result<()> {
    stdio::print(format_args!("\nLoad the adapter of {title} with PEFT:\n"))?;
    stdio::print("  from transformers import AutoModelForImageTextToText")?;
    stdio::print("  from peft import PeftModel")?;
    stdio::print(format_args!("  model = AutoModelForImageTextToText.from_pretrained({model:?})"))?;
    stdio::print(format_args!("  model = PeftModel.from_pretrained(model, {adapter:?})"))
}

/// Prints the runs with their status and the folders of their artifacts.
pub(crate) fn print_json(states: &[State], manifests: &[Manifest], volumes: &Volumes) -> Result<()> {
    let mut runs = Vec::new();
    for (state, manifest) in states.iter().zip(manifests) {
        let folders: Vec<_> = state
            .status
            .artifacts
            .iter()
            .map(|artifact| json!({"kind": artifact.kind, "folder": folder(artifact, manifest, volumes)}))
            .collect();
        runs.push(json!({"run": state.object()?, "artifacts": folders}));
    }
    stdio::print(serde_json::to_string_pretty(&runs).map_err(Failure::bug)?)
}

fn folder(artifact: &ArtifactStatus, manifest: &Manifest, volumes: &Volumes) -> String {
    let location =
        VolumePath { volume: artifact.volume.claim_name.clone(), path: artifact.volume.path.clone() };
    volumes.resolve(&location, &manifest.folder).display().to_string()
}

fn model(state: &State, manifest: &Manifest, volumes: &Volumes) -> Option<String> {
    let model = state.status.inputs.as_ref()?.model.as_ref()?.volume.as_ref()?;
    let location = VolumePath { volume: model.claim_name.clone(), path: model.path.clone() };
    Some(volumes.resolve(&location, &manifest.folder).display().to_string())
}
