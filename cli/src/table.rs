//! What was made, and where.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::json;
use stic_contract::{ArtifactKind, VolumePath};
use stic_crds::status::{ArtifactState, ArtifactStatus};

use crate::error::{Failure, Result};
use crate::manifests::Manifest;
use crate::say;
use crate::state::State;
use crate::volumes::Volumes;

/// For people.
pub(crate) fn print(states: &[State], manifests: &[Manifest], volumes: &Volumes) -> Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["RUN", "ARTIFACT", "", "SIZE", "DIGEST", "FOLDER"]);
    let mut adapters = Vec::new();
    // What an unfinished run has left is its own business until it is finished.
    for (state, manifest) in states.iter().zip(manifests).filter(|(state, _)| state.succeeded()) {
        for artifact in &state.status.artifacts {
            let folder = folder(artifact, manifest, volumes);
            let made = match artifact.state {
                ArtifactState::Created => "made",
                ArtifactState::Reused => "reused",
            };
            let digest: String = artifact.digest.trim_start_matches("sha256:").chars().take(12).collect();
            let kind = artifact.kind.folder_prefix();
            table.add_row([&state.title(), kind, made, &size(artifact.size_bytes), &digest, &folder]);
        }
        let adapter = state.status.artifacts.iter().find(|artifact| artifact.kind == ArtifactKind::Adapter);
        adapters.extend(
            adapter.map(|adapter| (state.title(), folder(adapter, manifest, volumes), manifest, state)),
        );
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if table.row_count() > 0 {
        say::print("")?;
        for line in table.lines() {
            say::print(line.trim_end())?;
        }
    }
    if let Some((title, adapter, manifest, state)) = adapters.last() {
        say::print(format_args!("\nThe adapter of {title} loads in PEFT:\n"))?;
        say::print("  from transformers import AutoModelForImageTextToText")?;
        say::print("  from peft import PeftModel")?;
        let model = model(state, manifest, volumes).unwrap_or_else(|| "<the base model>".into());
        say::print(format_args!("  model = AutoModelForImageTextToText.from_pretrained({model:?})"))?;
        say::print(format_args!("  model = PeftModel.from_pretrained(model, {adapter:?})"))?;
    }
    Ok(())
}

/// For programs.
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
    let text = serde_json::to_string_pretty(&runs).map_err(Failure::bug)?;
    say::print(text)
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

/// A size in units that people read.
pub(crate) fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_units_that_people_read() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
