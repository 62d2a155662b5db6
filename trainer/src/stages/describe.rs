//! `describe`: a description of the image of each instruction (Algorithm 2).

use stic_contract::config::{DataRecipe, Describe, RunConfig};
use stic_contract::{ArtifactKind, StepResult};

use super::StepContext;
use super::rows::DescriptionRow;
use super::shards::{WritingTask, write_shard};
use super::writer::{Request, draw_prompt};
use crate::error::Result;
use crate::io::artifact::Output;
use crate::io::progress::Reporter;

pub(super) fn run(
    task: &Describe,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
) -> Result<StepResult> {
    let writing = WritingTask {
        kind: ArtifactKind::Descriptions,
        activity: "describing",
        model: &task.model,
        adapter: task.adapter.as_ref(),
        items: &task.items,
        images: &task.images,
        recipe: DataRecipe::Descriptions(task.recipe.clone()),
        sampling: task.recipe.sampling,
        chat_template: task.recipe.chat_template,
        precision: task.precision,
        shards: task.shards,
    };
    write_shard(&writing, config, context, output, reporter, |desk, item, image| {
        let seen = desk.vlm.see(image)?;
        let request = Request {
            item: &item.id,
            prompt: draw_prompt(&task.recipe.prompts, config.seed, &item.id, "description-prompt"),
            purpose: "description",
            corruption: None,
            tokens_before_in_training: 0,
        };
        Ok(DescriptionRow {
            id: item.id.clone(),
            image: item.image.clone(),
            description: desk.writer.respond(&desk.writer.read(&seen)?, request)?,
        })
    })
}
