//! `generate`: a chosen and a rejected response per image (Algorithm 1).

use serde_json::Value;
use stic_contract::config::{DataRecipe, Generate};
use stic_contract::recipe::{Negatives, PreferenceRecipe, PreferenceSource};
use stic_contract::{ArtifactKind, StepResult};

use super::context::Execution;
use super::items::{GivenPair, Item};
use super::prompts::{draw_prompt, prompt_tokens};
use super::records::PreferenceRecord;
use super::shards::{ShardTask, write_shard};
use crate::algorithm::corruption::{Applied, add_noise};
use crate::algorithm::draw::Draw;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
use crate::error::{Error, Result};
use crate::inference::{ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, required};

pub(super) fn run(task: &Generate, execution: Execution<'_>) -> Result<StepResult> {
    let shard = ShardTask {
        kind: ArtifactKind::Preferences,
        activity: "generating",
        model: &task.model,
        adapter: task.adapter.as_ref(),
        items: &task.items,
        images: &task.images,
        recipe: DataRecipe::Preferences(task.recipe.clone()),
        chat_template: task.recipe.chat_template,
        precision: task.precision,
        shards: task.shards,
        batch_size: task.batch_size,
    };
    let plan = PreferencePlan { recipe: &task.recipe, seed: execution.config.seed };
    write_shard(&shard, execution, &plan)
}

struct PreferencePlan<'a> {
    recipe: &'a PreferenceRecipe,
    seed: u64,
}

/// How a rejected response comes about.
enum Negative {
    None,
    Hallucination,
    Corrupted,
}

impl ResponsePlan for PreferencePlan<'_> {
    type Item = Item;
    type Image = ::image::RgbImage;
    type Record = PreferenceRecord;

    fn draw_key<'i>(&self, item: &'i Item) -> &'i str {
        &item.id
    }

    fn requests(
        &self,
        policy: &Policy<'_>,
        item: &Item,
        image: &::image::RgbImage,
    ) -> Result<Vec<ImageRequest>> {
        let training_prompt = match self.recipe.source {
            PreferenceSource::Generate => self.caption_prompt(item),
            PreferenceSource::Instructions => exchange(item)?.0,
            PreferenceSource::File => return Ok(Vec::new()),
        };
        let processor = &policy.vlm.files.processor;
        let pixels = processor.preprocess(image)?;
        let image_tokens = processor.image_tokens(pixels.original);
        let prompt_tokens_in_training = prompt_tokens(policy.encoder, training_prompt, Some(image_tokens))?;
        let request = |prompt: &str, purpose| PromptRequest {
            prompt: prompt.to_owned(),
            purpose,
            sampling: self.recipe.sampling,
            prompt_tokens_in_training,
        };
        let mut clean = ImageRequest { pixels: Some(pixels), corruption: None, prompts: Vec::new() };
        if self.recipe.source == PreferenceSource::Instructions {
            clean.prompts.push(request(training_prompt, "own-answer"));
            return Ok(vec![clean]);
        }
        clean.prompts.push(request(&self.recipe.well_curated_prompt, "chosen"));
        match self.negative(&item.id) {
            Negative::None => {}
            Negative::Hallucination => {
                let prompts = &self.recipe.hallucination_prompts;
                let prompt = draw_prompt(prompts, self.seed, &item.id, "hallucination-prompt");
                clean.prompts.push(request(prompt, "rejected"));
            }
            // The released code never corrupts: its profile lists no corruption, and the rejected response is a
            // plain one.
            Negative::Corrupted if self.recipe.corruptions.is_empty() => {
                clean.prompts.push(request(training_prompt, "rejected"));
            }
            Negative::Corrupted => {
                let (pixels, corruption) = self.corrupt(policy, item, image)?;
                let prompts = vec![request(training_prompt, "rejected")];
                return Ok(vec![
                    clean,
                    ImageRequest { pixels: Some(pixels), corruption: Some(corruption), prompts },
                ]);
            }
        }
        Ok(vec![clean])
    }

    fn record(
        &self,
        policy: &Policy<'_>,
        item: Item,
        responses: Vec<ResponseRecord>,
    ) -> Result<PreferenceRecord> {
        let mut responses = responses.into_iter();
        let (prompt, chosen, rejected) = match self.recipe.source {
            PreferenceSource::Generate => {
                let chosen = required(responses.next(), &item.id)?;
                (self.caption_prompt(&item).to_owned(), chosen, responses.next())
            }
            PreferenceSource::Instructions => {
                let (question, answer) = exchange(&item)?;
                (question.to_owned(), self.given(policy, question, answer)?, responses.next())
            }
            PreferenceSource::File => {
                let GivenPair { prompt, chosen, rejected } = pair(&item)?;
                let given = |response| self.given(policy, prompt, response);
                (prompt.clone(), given(chosen)?, Some(given(rejected)?))
            }
        };
        Ok(PreferenceRecord { id: item.id, image: item.image, prompt, chosen, rejected })
    }
}

fn pair(item: &Item) -> Result<&GivenPair> {
    item.pair.as_ref().ok_or_else(|| {
        Error::Data(format!("item {:?} was prepared without a pair; run prepare again", item.id))
    })
}

/// The item's question and its answer.
fn exchange(item: &Item) -> Result<(&str, &str)> {
    match item.conversation.as_slice() {
        [question, answer, ..] => Ok((question.text(), answer.text())),
        _ => Err(Error::Data(format!(
            "item {:?} has no question with an answer; remove it from the instructions, or complete it",
            item.id
        ))),
    }
}

impl PreferencePlan<'_> {
    /// The prompt that the pair is trained under.
    fn caption_prompt(&self, item: &Item) -> &str {
        draw_prompt(&self.recipe.caption_prompts, self.seed, &item.id, "caption-prompt")
    }

    fn negative(&self, item: &str) -> Negative {
        match self.recipe.negatives {
            Negatives::None => Negative::None,
            Negatives::PromptsOnly => Negative::Hallucination,
            Negatives::ImagesOnly => Negative::Corrupted,
            Negatives::Both => {
                if Draw::new(self.seed, item, "negative").bernoulli(self.recipe.corrupted_share) {
                    Negative::Corrupted
                } else {
                    Negative::Hallucination
                }
            }
        }
    }

    /// The image after a corruption drawn for the item, and a record of the corruption.
    fn corrupt(
        &self,
        policy: &Policy<'_>,
        item: &Item,
        image: &::image::RgbImage,
    ) -> Result<(PixelValues, Value)> {
        let weights: Vec<u32> = self.recipe.corruptions.iter().map(|c| c.weight).collect();
        let kind = Draw::new(self.seed, &item.id, "corruption").weighted(&weights).ok_or_else(|| {
            Error::Config(
                "preferences.corruptions: every weight is 0; give at least one a weight of 1 or more".into(),
            )
        })?;
        let mut draw = Draw::new(self.seed, &item.id, "corruption-parameters");
        let applied = Applied::draw(&self.recipe.corruptions[kind].corruption, image.dimensions(), &mut draw);
        let mut pixels = policy.vlm.files.processor.preprocess(&applied.apply(image))?;
        if let Some(steps) = applied.noise_steps() {
            add_noise(&mut pixels, steps, &mut draw);
        }
        let record = serde_json::to_value(applied).map_err(|e| Error::Data(e.to_string()))?;
        Ok((pixels, record))
    }

    /// A response from the input data, tokenized together with its prompt.
    fn given(&self, policy: &Policy<'_>, prompt: &str, response: &str) -> Result<ResponseRecord> {
        let turns = [Turn::user_with_image(prompt), Turn::assistant(response)];
        let encoded = policy.encoder.encode_supervised(&turns, Some(1))?;
        let tokens = encoded.ids.iter().zip(&encoded.labels).filter_map(|(id, label)| label.then_some(*id));
        Ok(ResponseRecord {
            prompt: prompt.to_owned(),
            corruption: None,
            seed: self.seed,
            purpose: "given".into(),
            tokens: tokens.collect(),
            text: response.trim().to_owned(),
            finished: true,
        })
    }
}
