//! One shard of a step that generates: every n-th item, in a journal of its own.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::{Value, json};
use stic_contract::config::{DataRecipe, ModelInput, ShardSet};
use stic_contract::recipe::{ChatTemplate, Precision, Sampling};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, ArtifactRef, Digest, StepResult, VolumePath};

use super::context::{Execution, StepContext};
use super::disk_space::Requirement;
use super::inputs::{load_adapter, load_model};
use super::items::{Item, PreparedItems};
use crate::algorithm::sampling::SAMPLER;
use crate::data::encode::Encoder;
use crate::error::Result;
use crate::inference::{Policy, ResponsePlan, ResponseWriter, Vlm, write_side_by_side};
use crate::io::journal::{Journal, Row};
use crate::model::lora::LoraAdapter;

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
pub(super) fn write_shard<P: ResponsePlan<Item = Item, Record: Row + Send>>(
    task: &ShardTask<'_>,
    execution: Execution<'_>,
    plan: &P,
) -> Result<StepResult> {
    let Execution { config, devices, context, output, reporter } = execution;
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
        let models = devices.iter().map(|device| LoadedModel::load(task, context, device));
        let models = models.collect::<Result<Vec<_>>>()?;
        let writers: Vec<ResponseWriter<'_>> =
            models.iter().map(|model| model.writer(task, context, config.seed)).collect();
        let items_of = |writer: usize| {
            remaining().skip(writer).step_by(writers.len()).map(|index| {
                let item = prepared.get(index)?;
                let image = prepared.open_image(&item)?;
                Ok((item, image))
            })
        };
        write_side_by_side(&writers, plan, items_of, |record| {
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

/// A model on one of the devices.
struct LoadedModel {
    vlm: Vlm,
    adapter: Option<LoraAdapter>,
    encoder: Encoder,
}

impl LoadedModel {
    fn load(task: &ShardTask<'_>, context: &StepContext, device: &Device) -> Result<Self> {
        let vlm = load_model(&context.volumes, task.model, task.precision, device)?;
        let adapter = load_adapter(&context.volumes, &vlm, task.adapter)?;
        let encoder = vlm.files.encoder(task.chat_template)?;
        Ok(Self { vlm, adapter, encoder })
    }

    fn writer<'a>(&'a self, task: &ShardTask<'_>, context: &'a StepContext, seed: u64) -> ResponseWriter<'a> {
        let Self { vlm, adapter, encoder } = self;
        ResponseWriter {
            policy: Policy { vlm, adapter: adapter.as_ref(), encoder },
            seed,
            batch_size: vlm.batch_size(
                context.batch_size,
                task.sampling.max_new_tokens,
                context.reduced_memory,
            ),
            cancellation: &context.cancellation,
        }
    }
}

/// The journal of shard `index` in `dir`.
pub(super) fn shard_path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("shard-{index:05}.jsonl"))
}
