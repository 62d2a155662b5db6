//! Whether the disk has room for what `train` still has to write.

use stic_contract::config::Train;
use stic_contract::recipe::Objective;
use stic_contract::{ArtifactKind, StepName};

use super::super::context::StepContext;
use super::super::disk_space::{Requirement, adapter_bytes};
use super::super::items::PreparedItems;
use crate::checkpoint::adapter;
use crate::error::Result;
use crate::inference::ModelFiles;
use crate::io::artifact::Output;

/// Refuses to start without room for `sealed` bytes of data, the adapter and its training states.
pub(super) fn check_disk_space(
    task: &Train,
    prepared: &PreparedItems,
    context: &StepContext,
    output: &Output,
    sealed: u64,
) -> Result<()> {
    let adapter = match (&task.adapter, &task.recipe.lora) {
        // A missing file is reported when the adapter is loaded.
        (Some(reference), _) => {
            let weights = context.volumes.resolve(&reference.location)?.join(adapter::WEIGHTS_FILE);
            std::fs::metadata(&weights).map_or(0, |metadata| metadata.len())
        }
        (None, Some(lora)) => {
            let dir = context.volumes.resolve(&task.model.location)?;
            adapter_bytes(&ModelFiles::open(&dir, task.model.image_layout)?.config.text, lora)
        }
        (None, None) => 0,
    };
    let items = prepared.len() as u64;
    let epochs = u64::from(task.recipe.epochs);
    let steps = items.div_ceil(u64::from(task.recipe.global_batch_size.max(1))) * epochs;
    let pairs = if matches!(task.recipe.objective, Objective::Dpo(_)) && epochs > 1 { items } else { 0 };
    // Existing training states and drafts will be replaced by what is still to be written.
    let existing = output.unfinished(ArtifactKind::Adapter.folder_prefix())?;
    Requirement::default()
        .and("the sealed data", sealed)
        .and_training(adapter, existing)
        .and_references(pairs)
        .and_metrics(steps)
        .check(StepName::Train.as_str(), output.root())
}
