//! What the later steps take of a GPU's memory, before one is occupied.

use stic_contract::config::{DataRecipe, Prepare};
use stic_contract::recipe::{LoraTarget, Objective};

use super::super::disk_space::adapter_bytes;
use super::super::shards::generation_plan;
use super::item_files::CheckSummary;
use crate::error::Result;
use crate::inference::ModelFiles;
use crate::io::human_bytes;
use crate::memory::estimate::{self, AdapterMemory, LargestPass, LargestRequest, ModelMemory};

/// The rank that is assumed of an adapter which is continued.
const DEFAULT_RANK: usize = 128;

/// What generation and training take, for the longest responses and the largest image that can occur.
pub(super) fn report(
    task: &Prepare,
    files: &ModelFiles,
    model: ModelMemory<'_>,
    summary: &CheckSummary,
) -> Result<String> {
    let text = &files.config.text;
    let (crops, _) = files.largest_image();
    let image_tokens = summary.most_image_tokens;
    let (rank, adapter, dropout) = match &task.train.lora {
        Some(lora) => (lora.rank as usize, adapter_bytes(text, lora), lora.dropout > 0.0),
        None => (DEFAULT_RANK, estimate::adapter_bytes(text, DEFAULT_RANK, &LoraTarget::ALL), false),
    };
    let encoder = files.encoder(chat_template(&task.recipe))?;
    let plan = generation_plan(&task.recipe, &encoder, summary.items)?;
    let continued = if task.adapter.is_some() { adapter } else { 0 };
    let generation = model.generation(
        continued,
        LargestRequest {
            crops,
            image_tokens,
            text_tokens: plan.prompt_tokens + plan.max_new_tokens as usize,
            responses_per_image: plan.responses_per_image,
        },
    );

    let limit = task.train.max_length.map_or(files.max_tokens(), |length| length as usize);
    let limit = limit.min(files.max_tokens());
    let image_tokens = if task.train.with_image { image_tokens } else { 0 };
    let responses = if matches!(task.train.objective, Objective::Dpo(_)) { 2 } else { 1 };
    let prompt = (image_tokens + plan.prompt_tokens).min(limit);
    let response = (plan.max_new_tokens as usize).min(limit - prompt);
    let learned = responses * response;
    let tokens = (prompt + learned).max(summary.longest_example.min(limit));
    let adapter = AdapterMemory { bytes: adapter, rank, continues: task.adapter.is_some(), dropout };
    let crops = if task.train.with_image { crops } else { 0 };
    let training = model.training(
        adapter,
        LargestPass { tokens, sequence: tokens.min(limit), learned: learned.max(1), crops },
    );
    Ok(format!(
        "; of a GPU's memory, generation takes up to {} and {} more for each further response at a time, and training up to {} with the activations of no layer kept and {} with those of all",
        human_bytes(generation.peak(1)),
        human_bytes(generation.response_cache + generation.image_cache),
        human_bytes(training.peak(0)),
        human_bytes(training.peak(training.layers)),
    ))
}

const fn chat_template(recipe: &DataRecipe) -> stic_contract::recipe::ChatTemplate {
    match recipe {
        DataRecipe::Preferences(recipe) => recipe.chat_template,
        DataRecipe::Descriptions(recipe) => recipe.chat_template,
    }
}
