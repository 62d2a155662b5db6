//! `generate`: a chosen and a rejected response per image (Algorithm 1).

use serde_json::Value;
use stic_contract::config::{DataRecipe, Generate, RunConfig};
use stic_contract::recipe::{Negatives, PreferenceRecipe, PreferenceSource};
use stic_contract::{ArtifactKind, StepResult};

use super::StepContext;
use super::desk::{Ask, Desk, Maker, Sight, required};
use super::items::{GivenPair, Item};
use super::prompts::{draw_prompt, prompt_tokens};
use super::rows::{PreferenceRow, ResponseRecord};
use super::shards::{WritingTask, write_shard};
use crate::algorithm::corruption::{Applied, add_noise};
use crate::algorithm::draw::Draw;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
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
    write_shard(
        &writing,
        config,
        context,
        output,
        reporter,
        &PairMaker { recipe: &task.recipe, seed: config.seed },
    )
}

struct PairMaker<'a> {
    recipe: &'a PreferenceRecipe,
    seed: u64,
}

/// How a rejected response comes about.
enum Negative {
    None,
    Hallucination,
    Corrupted,
}

impl Maker for PairMaker<'_> {
    type Item = Item;
    type Row = PreferenceRow;

    fn key<'i>(&self, item: &'i Item) -> &'i str {
        &item.id
    }

    fn plan(&self, desk: &Desk<'_>, item: &Item, image: &::image::RgbImage) -> Result<Vec<Sight>> {
        let trained_under = match self.recipe.source {
            PreferenceSource::Generate => self.caption_prompt(item),
            PreferenceSource::Instructions => exchange(item)?.0,
            PreferenceSource::File => return Ok(Vec::new()),
        };
        let pixels = desk.vlm.checked.processor.preprocess(image)?;
        let image_tokens = desk.vlm.checked.processor.image_tokens(pixels.original);
        let tokens_before_in_training = prompt_tokens(desk.encoder, trained_under, Some(image_tokens))?;
        let ask = |prompt: &str, purpose| Ask {
            prompt: prompt.to_owned(),
            purpose,
            sampling: self.recipe.sampling,
            tokens_before_in_training,
        };
        let mut clean = Sight { pixels, corruption: None, asks: Vec::new() };
        if self.recipe.source == PreferenceSource::Instructions {
            clean.asks.push(ask(trained_under, "own-answer"));
            return Ok(vec![clean]);
        }
        clean.asks.push(ask(&self.recipe.well_curated_prompt, "chosen"));
        match self.negative(&item.id) {
            Negative::None => {}
            Negative::Hallucination => {
                let prompts = &self.recipe.hallucination_prompts;
                let prompt = draw_prompt(prompts, self.seed, &item.id, "hallucination-prompt");
                clean.asks.push(ask(prompt, "rejected"));
            }
            // The released code never corrupts: its profile lists no corruption, and the rejected response is a
            // plain one.
            Negative::Corrupted if self.recipe.corruptions.is_empty() => {
                clean.asks.push(ask(trained_under, "rejected"));
            }
            Negative::Corrupted => {
                let (pixels, applied) = self.corrupt(desk, item, image)?;
                let asks = vec![ask(trained_under, "rejected")];
                return Ok(vec![clean, Sight { pixels, corruption: Some(applied), asks }]);
            }
        }
        Ok(vec![clean])
    }

    fn row(&self, desk: &Desk<'_>, item: Item, written: Vec<ResponseRecord>) -> Result<PreferenceRow> {
        let mut written = written.into_iter();
        let (prompt, chosen, rejected) = match self.recipe.source {
            PreferenceSource::Generate => {
                (self.caption_prompt(&item).to_owned(), required(written.next(), &item.id)?, written.next())
            }
            PreferenceSource::Instructions => {
                let (question, answer) = exchange(&item)?;
                (question.to_owned(), self.given(desk, question, answer)?, written.next())
            }
            PreferenceSource::File => {
                let GivenPair { prompt, chosen, rejected } = pair(&item)?;
                let given = |response| self.given(desk, prompt, response);
                (prompt.clone(), given(chosen)?, Some(given(rejected)?))
            }
        };
        Ok(PreferenceRow { id: item.id, image: item.image, prompt, chosen, rejected })
    }
}

fn pair(item: &Item) -> Result<&GivenPair> {
    item.pair.as_ref().ok_or_else(|| {
        Error::Data(format!("item {:?} was prepared without its pair; run prepare again", item.id))
    })
}

/// The item's question and its answer.
fn exchange(item: &Item) -> Result<(&str, &str)> {
    match item.conversation.as_slice() {
        [question, answer, ..] => Ok((question.text(), answer.text())),
        _ => Err(Error::Data(format!("item {:?} has no question and answer", item.id))),
    }
}

impl PairMaker<'_> {
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

    /// The image after a corruption drawn for the item, and what was done.
    fn corrupt(
        &self,
        desk: &Desk<'_>,
        item: &Item,
        image: &::image::RgbImage,
    ) -> Result<(PixelValues, Value)> {
        let weights: Vec<u32> = self.recipe.corruptions.iter().map(|c| c.weight).collect();
        let kind = Draw::new(self.seed, &item.id, "corruption").weighted(&weights).ok_or_else(|| {
            Error::Config(
                "preferences.corruptions: every weight is 0; give one a weight of at least 1".into(),
            )
        })?;
        let mut draw = Draw::new(self.seed, &item.id, "corruption-parameters");
        let applied = Applied::draw(&self.recipe.corruptions[kind].corruption, image.dimensions(), &mut draw);
        let mut pixels = desk.vlm.checked.processor.preprocess(&applied.apply(image))?;
        if let Some(steps) = applied.noise_steps() {
            add_noise(&mut pixels, steps, &mut draw);
        }
        let record = serde_json::to_value(applied).map_err(|e| Error::Data(e.to_string()))?;
        Ok((pixels, record))
    }

    /// A response that somebody else wrote, tokenised together with its prompt.
    fn given(&self, desk: &Desk<'_>, prompt: &str, response: &str) -> Result<ResponseRecord> {
        let turns = [Turn::user_with_image(prompt), Turn::assistant(response)];
        let encoded = desk.encoder.encode_supervised(&turns, Some(1))?;
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
