//! `generate`: a chosen and a rejected response per image (Algorithm 1).

use serde_json::Value;
use stic_contract::config::{DataRecipe, Generate, RunConfig};
use stic_contract::recipe::{Negatives, PreferenceRecipe, PreferenceSource};
use stic_contract::{ArtifactKind, StepResult};

use super::StepContext;
use super::items::Item;
use super::rows::{PreferenceRow, ResponseRecord};
use super::shards::{Desk, WritingTask, write_shard};
use super::vlm::SeenImage;
use super::writer::{ReadImage, Request, draw_prompt, prompt_tokens};
use crate::algorithm::corruption::{Applied, add_noise};
use crate::algorithm::draw::Draw;
use crate::data::template::{Role, Turn};
use crate::error::{Error, Result};
use crate::io::artifact::Output;
use crate::io::progress::Reporter;

pub(super) fn run(
    task: &Generate,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
) -> Result<StepResult> {
    let writing = WritingTask {
        kind: ArtifactKind::Preferences,
        activity: "generating",
        model: &task.model,
        adapter: task.adapter.as_ref(),
        items: &task.items,
        images: &task.images,
        recipe: DataRecipe::Preferences(task.recipe.clone()),
        sampling: task.recipe.sampling,
        chat_template: task.recipe.chat_template,
        precision: task.precision,
        shards: task.shards,
    };
    write_shard(&writing, config, context, output, reporter, |desk, item, image| {
        PairMaker { desk, recipe: &task.recipe, seed: config.seed }.make(item, image)
    })
}

struct PairMaker<'a> {
    desk: &'a Desk<'a>,
    recipe: &'a PreferenceRecipe,
    seed: u64,
}

/// How a rejected response comes about.
enum Negative {
    None,
    Hallucination,
    Corrupted,
}

impl PairMaker<'_> {
    fn make(&self, item: &Item, image: &::image::RgbImage) -> Result<PreferenceRow> {
        let row = |prompt: &str, chosen, rejected| PreferenceRow {
            id: item.id.clone(),
            image: item.image.clone(),
            prompt: prompt.to_owned(),
            chosen,
            rejected,
        };
        match self.recipe.source {
            PreferenceSource::Generate => {
                let prompt = draw_prompt(&self.recipe.caption_prompts, self.seed, &item.id, "caption-prompt");
                let seen = self.desk.vlm.see(image)?;
                let before = prompt_tokens(self.desk.encoder, prompt, Some(seen.tokens))?;
                let read = self.desk.writer.read(&seen)?;
                let chosen = self.desk.writer.respond(
                    &read,
                    Request {
                        item: &item.id,
                        prompt: &self.recipe.well_curated_prompt,
                        purpose: "chosen",
                        corruption: None,
                        tokens_before_in_training: before,
                    },
                )?;
                Ok(row(prompt, chosen, self.rejected(item, image, &read, prompt, before)?))
            }
            PreferenceSource::File => {
                let pair = item.pair.as_ref().ok_or_else(|| {
                    Error::Data(format!(
                        "item {:?} was prepared without its pair; run prepare again",
                        item.id
                    ))
                })?;
                let chosen = self.given(&pair.prompt, &pair.chosen)?;
                let rejected = self.given(&pair.prompt, &pair.rejected)?;
                Ok(row(&pair.prompt, chosen, Some(rejected)))
            }
            PreferenceSource::Instructions => {
                let [question, answer, ..] = item.conversation.as_slice() else {
                    return Err(Error::Data(format!("item {:?} has no question and answer", item.id)));
                };
                let chosen = self.given(question.text(), answer.text())?;
                let seen = self.desk.vlm.see(image)?;
                let before = prompt_tokens(self.desk.encoder, question.text(), Some(seen.tokens))?;
                let own = self.desk.writer.respond(
                    &self.desk.writer.read(&seen)?,
                    Request {
                        item: &item.id,
                        prompt: question.text(),
                        purpose: "own-answer",
                        corruption: None,
                        tokens_before_in_training: before,
                    },
                )?;
                Ok(row(question.text(), chosen, Some(own)))
            }
        }
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

    fn rejected(
        &self,
        item: &Item,
        image: &::image::RgbImage,
        clean: &ReadImage,
        prompt: &str,
        before: usize,
    ) -> Result<Option<ResponseRecord>> {
        let request = |prompt, corruption| Request {
            item: &item.id,
            prompt,
            purpose: "rejected",
            corruption,
            tokens_before_in_training: before,
        };
        match self.negative(&item.id) {
            Negative::None => Ok(None),
            Negative::Hallucination => {
                let prompts = &self.recipe.hallucination_prompts;
                let prompt = draw_prompt(prompts, self.seed, &item.id, "hallucination-prompt");
                self.desk.writer.respond(clean, request(prompt, None)).map(Some)
            }
            // The released code never corrupts: its profile lists no corruption, and the rejected response is a
            // plain one.
            Negative::Corrupted if self.recipe.corruptions.is_empty() => {
                self.desk.writer.respond(clean, request(prompt, None)).map(Some)
            }
            Negative::Corrupted => {
                let (seen, applied) = self.corrupt(item, image)?;
                let read = self.desk.writer.read(&seen)?;
                self.desk.writer.respond(&read, request(prompt, Some(applied))).map(Some)
            }
        }
    }

    /// The image after a corruption drawn for the item, and what was done.
    fn corrupt(&self, item: &Item, image: &::image::RgbImage) -> Result<(SeenImage, Value)> {
        let weights: Vec<u32> = self.recipe.corruptions.iter().map(|c| c.weight).collect();
        let kind = Draw::new(self.seed, &item.id, "corruption").weighted(&weights).ok_or_else(|| {
            Error::Config(
                "preferences.corruptions: every weight is 0; give one a weight of at least 1".into(),
            )
        })?;
        let mut draw = Draw::new(self.seed, &item.id, "corruption-parameters");
        let applied = Applied::draw(&self.recipe.corruptions[kind].corruption, image.dimensions(), &mut draw);
        let mut pixels = self.desk.vlm.checked.processor.preprocess(&applied.apply(image))?;
        if let Some(steps) = applied.noise_steps() {
            add_noise(&mut pixels, steps, &mut draw);
        }
        let record = serde_json::to_value(applied).map_err(|e| Error::Data(e.to_string()))?;
        Ok((self.desk.vlm.see_pixels(&pixels)?, record))
    }

    /// A response that somebody else wrote, tokenised together with its prompt.
    fn given(&self, prompt: &str, response: &str) -> Result<ResponseRecord> {
        let turns = [
            Turn::user_with_image(prompt),
            Turn { role: Role::Assistant, text: response.to_owned(), image: false },
        ];
        let encoded = self.desk.encoder.encode_supervised(&turns, Some(1))?;
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
