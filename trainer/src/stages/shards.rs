//! One shard of a step that generates: every n-th item, in a journal of its own.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::{Value, json};
use stic_contract::config::{DataRecipe, ModelInput, ShardSet};
use stic_contract::recipe::{ChatTemplate, Negatives, Precision, PreferenceSource};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, ArtifactRef, Digest, StepResult, VolumePath};

use super::context::{Execution, StepContext};
use super::disk_space::Requirement;
use super::inputs::{load_adapter, load_model};
use super::items::{Item, PreparedItems};
use super::prompts::{generation_prompts, longest_prompt};
use crate::algorithm::sampling::SAMPLER;
use crate::data::encode::Encoder;
use crate::error::Result;
use crate::inference::{GenerationPlan, Policy, ResponsePlan, ResponseWriter, Vlm, write_side_by_side};
use crate::io::journal::{Journal, Row};
use crate::model::lora::LoraAdapter;

/// Counted for a question when memory is planned.
const QUESTION_TOKENS: usize = 512;

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
    pub chat_template: ChatTemplate,
    pub precision: Precision,
    pub shards: u32,
    /// How many responses to generate at a time.
    pub batch_size: Option<NonZeroU32>,
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
pub(super) fn write_shard<P: ResponsePlan<Item = Item, Image = ::image::RgbImage, Record: Row + Send>>(
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
        let writers: Vec<ResponseWriter<'_>> = models
            .iter()
            .map(|model| model.writer(task, context, config.seed, todo))
            .collect::<Result<_>>()?;
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

    /// For `items` items that are left.
    fn writer<'a>(
        &'a self,
        task: &ShardTask<'_>,
        context: &'a StepContext,
        seed: u64,
        items: u64,
    ) -> Result<ResponseWriter<'a>> {
        let Self { vlm, adapter, encoder } = self;
        let requested = task.batch_size.map_or(0, |size| size.get() as usize);
        let plan = GenerationPlan {
            requested: context.batch_size.unwrap_or(requested),
            reduced: context.reduced_memory,
            adapter_bytes: adapter.as_ref().map_or(0, LoraAdapter::bytes),
            ..generation_plan(&task.recipe, encoder, items)?
        };
        Ok(ResponseWriter {
            policy: Policy { vlm, adapter: adapter.as_ref(), encoder },
            seed,
            batch_size: vlm.batch_size(&plan)?,
            cancellation: &context.cancellation,
        })
    }
}

/// What is generated for so many items without an adapter, with as many responses at a time as memory has room for.
pub(super) fn generation_plan(recipe: &DataRecipe, encoder: &Encoder, items: u64) -> Result<GenerationPlan> {
    let (sampling, responses, questions) = match recipe {
        DataRecipe::Preferences(recipe) => (
            recipe.sampling,
            if recipe.negatives == Negatives::None { 1 } else { 2 },
            recipe.source == PreferenceSource::Instructions,
        ),
        DataRecipe::Descriptions(recipe) => (recipe.sampling, 1, false),
    };
    let longest = longest_prompt(encoder, &generation_prompts(recipe).1)?;
    Ok(GenerationPlan {
        requested: 0,
        responses: usize::try_from(items).unwrap_or(usize::MAX).saturating_mul(responses),
        // The questions of instructions are not read for this.
        prompt_tokens: if questions { longest.max(QUESTION_TOKENS) } else { longest },
        max_new_tokens: sampling.max_new_tokens,
        adapter_bytes: 0,
        reduced: false,
    })
}

/// The journal of shard `index` in `dir`.
pub(super) fn shard_path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("shard-{index:05}.jsonl"))
}
