//! `describe`: a description of the image of each instruction (Algorithm 2).

use stic_contract::config::{DataRecipe, Describe, RunConfig};
use stic_contract::recipe::DescriptionRecipe;
use stic_contract::{ArtifactKind, StepResult};

use super::StepContext;
use super::desk::{Ask, Desk, Maker, Sight, required};
use super::items::Item;
use super::prompts::draw_prompt;
use super::rows::{DescriptionRow, ResponseRecord};
use super::shards::{WritingTask, write_shard};
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
    let maker = DescriptionMaker { recipe: &task.recipe, seed: config.seed };
    write_shard(&writing, config, context, output, reporter, &maker)
}

struct DescriptionMaker<'a> {
    recipe: &'a DescriptionRecipe,
    seed: u64,
}

impl Maker for DescriptionMaker<'_> {
    type Item = Item;
    type Row = DescriptionRow;

    fn key<'i>(&self, item: &'i Item) -> &'i str {
        &item.id
    }

    fn plan(&self, desk: &Desk<'_>, item: &Item, image: &::image::RgbImage) -> Result<Vec<Sight>> {
        let ask = Ask {
            prompt: draw_prompt(&self.recipe.prompts, self.seed, &item.id, "description-prompt").to_owned(),
            purpose: "description",
            sampling: self.recipe.sampling,
            tokens_before_in_training: 0,
        };
        let pixels = desk.vlm.checked.processor.preprocess(image)?;
        Ok(vec![Sight { pixels, corruption: None, asks: vec![ask] }])
    }

    fn row(&self, _: &Desk<'_>, item: Item, written: Vec<ResponseRecord>) -> Result<DescriptionRow> {
        let description = required(written.into_iter().next(), &item.id)?;
        Ok(DescriptionRow { id: item.id, image: item.image, description })
    }
}
