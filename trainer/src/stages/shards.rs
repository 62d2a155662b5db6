//! One index of a step that writes: every n-th item, in a journal of its own.

use std::path::{Path, PathBuf};

use stic_contract::config::{DataRecipe, ModelInput, RunConfig, ShardSet};
use stic_contract::recipe::{ChatTemplate, Precision, Sampling};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, ArtifactRef, StepResult, VolumePath};

use super::disk::Need;
use super::items::{Item, PreparedItems};
use super::vlm::{Vlm, adapter_dir};
use super::writer::Writer;
use super::{StepContext, keys, pool};
use crate::data::encode::Encoder;
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

/// What a row is made with.
pub(super) struct Desk<'a> {
    pub vlm: &'a Vlm,
    pub writer: &'a Writer<'a>,
    pub encoder: &'a Encoder,
}

/// Makes a row of every item of the shard that no earlier attempt made.
pub(super) fn write_shard<R: Row + Send>(
    task: &WritingTask<'_>,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
    make: impl Fn(&Desk<'_>, &Item, &::image::RgbImage) -> Result<R> + Sync,
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
    let draft = output.begin_shards(task.kind, key)?;
    let mut done = vec![false; prepared.len()];
    let mut journal = Journal::open::<R>(&shard_path(&draft.dir, context.shard), |id| {
        done[prepared.rows().index_of(id)?] = true;
        Ok(())
    })?;
    let share = || prepared.indexes(context.shard, task.shards);
    let total = share().len() as u64;
    let todo: Vec<usize> = share().filter(|index| !done[*index]).collect();
    Need::of_rows(&task.recipe, todo.len() as u64).require(config.step().as_str(), output.root())?;
    reporter.begin(task.activity, "items", total - todo.len() as u64, total)?;
    if !todo.is_empty() {
        let dir = context.volumes.resolve(&task.model.location)?;
        let vlm = Vlm::load(&dir, task.model.image_layout, task.precision)?;
        let adapter = task
            .adapter
            .map(|reference| vlm.load_adapter(&adapter_dir(&context.volumes, reference)?))
            .transpose()?;
        let encoder = vlm.checked.encoder(task.chat_template)?;
        let stop = &context.stop;
        let writer = Writer::new(&vlm, adapter.as_ref(), &encoder, task.sampling, config.seed, stop.clone());
        let desk = Desk { vlm: &vlm, writer: &writer, encoder: &encoder };
        pool::for_each(
            &todo,
            pool::workers(vlm.device()),
            |index| {
                stop.check()?;
                let item = prepared.get(*index)?;
                make(&desk, &item, &prepared.open_image(&item)?)
            },
            |_, row| {
                journal.append(&row)?;
                reporter.advance(1)
            },
        )?;
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
