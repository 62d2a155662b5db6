//! `describe`: a description of the image of each instruction (Algorithm 2).

use stic_contract::config::{DataRecipe, Describe};
use stic_contract::recipe::DescriptionRecipe;
use stic_contract::{ArtifactKind, StepResult};

use super::context::Execution;
use super::items::Item;
use super::prompts::draw_prompt;
use super::records::DescriptionRecord;
use super::shards::{ShardTask, write_shard};
use crate::error::Result;
use crate::inference::{ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, required};

pub(super) fn run(task: &Describe, execution: Execution<'_>) -> Result<StepResult> {
    let shard = ShardTask {
        kind: ArtifactKind::Descriptions,
        activity: "describing",
        model: &task.model,
        adapter: task.adapter.as_ref(),
        items: &task.items,
        images: &task.images,
        recipe: DataRecipe::Descriptions(task.recipe.clone()),
        chat_template: task.recipe.chat_template,
        precision: task.precision,
        shards: task.shards,
        batch_size: task.batch_size,
    };
    let plan = DescriptionPlan { recipe: &task.recipe, seed: execution.config.seed };
    write_shard(&shard, execution, &plan)
}

struct DescriptionPlan<'a> {
    recipe: &'a DescriptionRecipe,
    seed: u64,
}

impl ResponsePlan for DescriptionPlan<'_> {
    type Item = Item;
    type Image = ::image::RgbImage;
    type Record = DescriptionRecord;

    fn draw_key<'i>(&self, item: &'i Item) -> &'i str {
        &item.id
    }

    fn requests(
        &self,
        policy: &Policy<'_>,
        item: &Item,
        image: &::image::RgbImage,
    ) -> Result<Vec<ImageRequest>> {
        let prompt = PromptRequest {
            prompt: draw_prompt(&self.recipe.prompts, self.seed, &item.id, "description-prompt").to_owned(),
            purpose: "description",
            sampling: self.recipe.sampling,
            prompt_tokens_in_training: 0,
        };
        let pixels = policy.vlm.files.processor.preprocess(image)?;
        Ok(vec![ImageRequest { pixels: Some(pixels), corruption: None, prompts: vec![prompt] }])
    }

    fn record(
        &self,
        _: &Policy<'_>,
        item: Item,
        responses: Vec<ResponseRecord>,
    ) -> Result<DescriptionRecord> {
        let description = required(responses.into_iter().next(), &item.id)?;
        Ok(DescriptionRecord { id: item.id, image: item.image, description })
    }
}
