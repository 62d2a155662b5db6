//! One shard of a step that generates: every n-th item, in a journal of its own.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_contract::config::{DataRecipe, ModelInput, ShardSet};
use stic_contract::recipe::{ChatTemplate, Precision, Sampling};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, ArtifactRef, Digest, StepResult, VolumePath};

use super::context::Execution;
use super::disk_space::Requirement;
use super::inputs::{load_adapter, load_model};
use super::items::{Item, PreparedItems};
use crate::algorithm::sampling::SAMPLER;
use crate::error::Result;
use crate::inference::{Policy, ResponsePlan, ResponseWriter};
use crate::io::journal::{Journal, Row};

/// What the generating steps have in common.
pub(super) struct ShardTask<'a> {
    pub kind: ArtifactKind,
    /// Reported as progress.
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

/// What determines the bytes of generated data, and so names its folder.
pub(super) fn data_key(
    recipe: &DataRecipe,
    model: &ModelInput,
    adapter: Option<&Digest>,
    items: &Digest,
    seed: u64,
    precision: Precision,
) -> Value {
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "sampler": SAMPLER,
        "recipe": recipe,
        "model": model.digest,
        "imageLayout": model.image_layout,
        "adapter": adapter,
        "items": items,
        "seed": seed,
        "precision": precision,
    })
}

/// Makes a record of every item of the shard that an earlier attempt has not made.
pub(super) fn write_shard<P: ResponsePlan<Item = Item, Record: Row>>(
    task: &ShardTask<'_>,
    execution: Execution<'_>,
    plan: &P,
) -> Result<StepResult> {
    let Execution { config, context, output, reporter } = execution;
    let prepared = PreparedItems::open(&context.volumes, task.items, task.images)?;
    let key = data_key(
        &task.recipe,
        task.model,
        task.adapter.map(|a| &a.digest),
        &task.items.digest,
        config.seed,
        task.precision,
    );
    let draft = output.begin_shard(task.kind, key, context.shard)?;
    let mut done = vec![false; prepared.len()];
    let mut journal = Journal::open::<P::Record>(&shard_path(&draft.dir, context.shard), |id| {
        done[prepared.index_of(id)?] = true;
        Ok(())
    })?;
    let share = || prepared.share(context.shard, task.shards);
    let remaining = || share().filter(|index| !done[*index]);
    let (total, todo) = (share().len() as u64, remaining().count() as u64);
    Requirement::of_data(&task.recipe, todo).check(config.step().as_str(), output.root())?;
    reporter.begin(task.activity, "items", total - todo, total)?;
    if todo > 0 {
        let vlm = load_model(&context.volumes, task.model, task.precision)?;
        let adapter = load_adapter(&context.volumes, &vlm, task.adapter)?;
        let encoder = vlm.files.encoder(task.chat_template)?;
        let writer = ResponseWriter {
            policy: Policy { vlm: &vlm, adapter: adapter.as_ref(), encoder: &encoder },
            seed: config.seed,
            batch_size: vlm.batch_size(context.batch_size, task.sampling.max_new_tokens),
            cancellation: &context.cancellation,
        };
        let items = remaining().map(|index| {
            let item = prepared.get(index)?;
            let image = prepared.open_image(&item)?;
            Ok((item, image))
        });
        writer.write(plan, items, |record| {
            journal.append(&record)?;
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
pub(super) fn shard_path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("shard-{index:05}.jsonl"))
}
