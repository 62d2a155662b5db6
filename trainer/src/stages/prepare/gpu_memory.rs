//! What the later steps take of a GPU's memory, before one is occupied.

use stic_contract::config::{DataRecipe, Prepare};
use stic_contract::recipe::{Objective, Precision, PreferenceSource};

use super::super::disk_space::adapter_bytes;
use super::super::prompts::generation_prompts;
use super::super::shards::generation_plan;
use super::super::train::{MAX_PACK_TOKENS, noise_steps};
use super::item_files::CheckSummary;
use crate::error::Result;
use crate::inference::ModelFiles;
use crate::io::human_bytes;
use crate::memory::estimate::{AdapterMemory, LargestPass, ModelMemory};

/// The rank that is assumed of an adapter which is continued. Little depends on it.
const CONTINUED_RANK: usize = 128;

/// What generation and training take, for the longest responses and the largest image that can occur. `continued` are the bytes
/// of the adapter that is continued.
pub(super) fn report(
    task: &Prepare,
    files: &ModelFiles,
    model: ModelMemory<'_>,
    summary: &CheckSummary,
    continued: Option<u64>,
) -> Result<String> {
    let encoder = files.encoder(generation_prompts(&task.recipe).0)?;
    let plan = generation_plan(&task.recipe, &encoder, summary.items)?;
    let largest = plan.largest_request(files, summary.most_image_tokens);
    let generation = model.generation(continued.unwrap_or(0), largest);

    let (rank, new) = match &task.train.lora {
        Some(lora) => (lora.rank as usize, adapter_bytes(&files.config.text, lora)),
        None => (CONTINUED_RANK, 0),
    };
    let adapter = AdapterMemory {
        bytes: continued.unwrap_or(new),
        rank,
        continues: continued.is_some(),
        dropout: has_dropout(task),
    };
    let crops = if task.train.with_image { largest.crops } else { 0 };
    let training = model.training(adapter, LargestPass { crops, ..largest_pass(task, files, summary) });
    Ok(format!(
        "; GPU memory: generation takes up to {} and {} more for each further response at a time, training up to {} with every layer checkpointed and {} with none",
        human_bytes(generation.peak(1)),
        human_bytes(generation.response),
        human_bytes(training.peak(0)),
        human_bytes(training.peak(training.layers)),
    ))
}

/// The largest pass that a training can have.
fn largest_pass(task: &Prepare, files: &ModelFiles, summary: &CheckSummary) -> LargestPass {
    let limit = task.train.max_length.map_or(files.max_tokens(), |length| length as usize);
    let limit = limit.min(files.max_tokens());
    let prefers = matches!(task.train.objective, Objective::Dpo(_));
    // Responses that are generated after the prompts were counted.
    let (generated, max_new_tokens) = match &task.recipe {
        DataRecipe::Preferences(recipe) => {
            let generated = match recipe.source {
                PreferenceSource::Generate => 1 + usize::from(prefers),
                PreferenceSource::Instructions => 1,
                PreferenceSource::File => 0,
            };
            (generated, recipe.sampling.max_new_tokens as usize)
        }
        DataRecipe::Descriptions(_) => (0, 0),
    };
    let response = max_new_tokens.min(limit.saturating_sub(summary.longest_example));
    let learned = generated * response;
    let shared = !has_dropout(task) && noise_steps(&task.train).is_none();
    let prompts = if prefers && !shared { 2 } else { 1 };
    let one = prompts * summary.longest_example + learned;
    // In BF16 a pair is computed by itself.
    let packed = shared && (!prefers || task.precision == Precision::F32);
    let batch = task.train.global_batch_size as usize;
    let tokens = if packed { one.max(batch.saturating_mul(one).min(MAX_PACK_TOKENS)) } else { one };
    LargestPass { tokens, sequence: one.min(limit), learned: learned.max(summary.longest_example), crops: 0 }
}

fn has_dropout(task: &Prepare) -> bool {
    task.train.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0)
}
