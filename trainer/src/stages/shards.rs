//! One index of a step that writes: every n-th item, in a journal of its own.

use std::path::{Path, PathBuf};

use stic_contract::config::{DataRecipe, ModelInput, RunConfig, ShardSet};
use stic_contract::recipe::{ChatTemplate, Precision, Sampling};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, ArtifactRef, StepResult, VolumePath};

use super::desk::{Desk, Maker};
use super::disk::Need;
use super::items::{Item, PreparedItems};
use super::vlm::{Vlm, adapter_dir};
use super::{StepContext, keys};
use crate::error::Result;
use crate::io::artifact::Output;
use crate::io::journal::{Journal, Row};
use crate::io::progress::Reporter;

/// What the steps that write have in common.
pub(super) struct WritingTask<'a> {
    pub kind: ArtifactKind,
    pub activity: &'static str,
    pub model: &'a ModelInput,
    pub adapter: Option<&'a ArtifactRef>,
    pub items: &'a ArtifactRef,
    pub images: &'a VolumePath,
    pub recipe: DataRecipe,
    pub sampling: Sampling,
    pub chat_template: ChatTemplate,
    pub precision: Precision,
    pub shards: u32,
}

/// Has a row made of every item of the shard that no earlier attempt made.
pub(super) fn write_shard<M: Maker<Item = Item, Row: Row>>(
    task: &WritingTask<'_>,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
    maker: &M,
) -> Result<StepResult> {
    let prepared = PreparedItems::open(&context.volumes, task.items, task.images)?;
    let key = keys::data(
        &task.recipe,
        task.model,
        task.adapter.map(|a| &a.digest),
        &task.items.digest,
        config.seed,
        task.precision,
    );
    let draft = output.begin_shard(task.kind, key, context.shard)?;
    let mut done = vec![false; prepared.len()];
    let mut journal = Journal::open::<M::Row>(&shard_path(&draft.dir, context.shard), |id| {
        done[prepared.rows().index_of(id)?] = true;
        Ok(())
    })?;
    let share = || prepared.share(context.shard, task.shards);
    let left = || share().filter(|index| !done[*index]);
    let (total, todo) = (share().len() as u64, left().count() as u64);
    Need::of_rows(&task.recipe, todo).require(config.step().as_str(), output.root())?;
    reporter.begin(task.activity, "items", total - todo, total)?;
    if todo > 0 {
        let dir = context.volumes.resolve(&task.model.location)?;
        let vlm = Vlm::load(&dir, task.model.image_layout, task.precision)?;
        let adapter = task
            .adapter
            .map(|reference| vlm.load_adapter(&adapter_dir(&context.volumes, reference)?))
            .transpose()?;
        let encoder = vlm.checked.encoder(task.chat_template)?;
        let desk = Desk {
            vlm: &vlm,
            adapter: adapter.as_ref(),
            encoder: &encoder,
            seed: config.seed,
            at_once: vlm.responses_at_once(context.responses_at_once, task.sampling.max_new_tokens),
            stop: &context.stop,
        };
        let items = left().map(|index| {
            let item = prepared.get(index)?;
            let image = prepared.open_image(&item)?;
            Ok((item, image))
        });
        desk.write(maker, items, |row| {
            journal.append(&row)?;
            reporter.advance(1)
        })?;
    }
    Ok(StepResult {
        shards: Some(ShardSet { folder: draft.name().to_owned(), shards: task.shards }),
        items: Some(ItemCounts { total, done: total, skipped: 0 }),
        ..StepResult::new(config.step())
    })
}

/// The journal of shard `index` in `dir`.
#[must_use]
pub(super) fn shard_path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("shard-{index:05}.jsonl"))
}
