//! Checks of each item: its image can be read, and everything that is made of it fits the model.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use stic_contract::Digest;
use stic_contract::config::{DataRecipe, Prepare};
use stic_contract::recipe::Objective;

use super::super::context::StepContext;
use super::super::items::{Item, decode, read_image};
use super::super::prompts::{generation_prompts, longest_prompt, prompt_tokens};
use super::item_files::{CheckedItem, ItemFiles, Unusable, UsableItem};
use super::listing::{ListedItem, Listing};
use super::parallel;
use super::problems::Problems;
use crate::data::encode::Encoder;
use crate::data::images_dir::{self, Unresolved};
use crate::data::template::Turn;
use crate::error::{Error, Result};
use crate::inference::ModelFiles;
use crate::io::progress::Reporter;

/// Items that are checked before any of them is written: enough for any number of threads, few in memory.
const BATCH: usize = 1024;

/// What every item is checked against.
pub(super) struct Checker<'a> {
    task: &'a Prepare,
    files: &'a ModelFiles,
    generation: Encoder,
    training: Encoder,
    /// Tokens of the longest prompt, without its image.
    longest_prompt: usize,
    /// Tokens of the longest prompt under which generated pairs are trained, without its image.
    longest_training_prompt: usize,
    /// Whether the crops of an image were made. One is enough if all images have the same.
    crops_checked: AtomicBool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(task: &'a Prepare, files: &'a ModelFiles) -> Result<Self> {
        let (template, prompts) = generation_prompts(&task.recipe);
        let generation = files.encoder(template)?;
        let training = files.encoder(task.train.chat_template)?;
        let longest_prompt = longest_prompt(&generation, &prompts)?.max(longest_prompt(&training, &prompts)?);
        let mut longest_training_prompt = 0;
        if let DataRecipe::Preferences(recipe) = &task.recipe {
            let image = task.train.with_image.then_some(1);
            for prompt in &recipe.caption_prompts {
                let tokens = prompt_tokens(&training, prompt, image)? - image.unwrap_or_default();
                longest_training_prompt = longest_training_prompt.max(tokens);
            }
        }
        let crops_checked = AtomicBool::new(false);
        Ok(Self { task, files, generation, training, longest_prompt, longest_training_prompt, crops_checked })
    }

    /// Checks every item and writes it to `item_files`, in the order of `listing`.
    ///
    /// # Errors
    /// [`Error::Data`] with the items that cannot be used, if none or too many of them may be skipped.
    pub(super) fn check_all(
        &self,
        listing: &mut Listing,
        item_files: &mut ItemFiles<'_>,
        context: &StepContext,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let mut problems = Problems::new(listing.count, listing.policy);
        loop {
            let batch = listing.by_ref().take(BATCH).enumerate();
            let batch = batch.map(|(index, item)| Ok((index, item?))).collect::<Result<Vec<_>>>()?;
            if batch.is_empty() {
                return problems.check();
            }
            let mut checked = vec![None; batch.len()];
            parallel::for_each(
                &batch,
                parallel::workers(),
                |(_, listed)| {
                    context.cancellation.check()?;
                    self.check(listed, &listing.images)
                },
                |(index, _), result| {
                    if result.is_err() {
                        reporter.skip();
                    }
                    checked[*index] = Some(result);
                    reporter.advance(1)
                },
            )?;
            for ((_, listed), result) in batch.iter().zip(checked) {
                let Some(result) = result else { continue };
                if let Err(unusable) = &result {
                    problems.add(listed, &unusable.reason)?;
                }
                item_files.add(listed, result)?;
            }
        }
    }

    fn check(&self, listed: &ListedItem, images: &Path) -> Result<CheckedItem> {
        if let Some(reason) = &listed.problem {
            return Ok(Err(Unusable::unreadable(listed.malformed(reason))));
        }
        // A missing image may be skipped; a path that leaves its folder never is.
        let path = match images_dir::resolve(images, &listed.image) {
            Ok(path) => path,
            Err(Unresolved::Unreadable(reason)) => {
                return Ok(Err(Unusable::unreadable(listed.unreadable(&reason))));
            }
            Err(outside) => return Err(Error::from(outside).in_row(&listed.label())),
        };
        let read = read_image(&path).and_then(|bytes| {
            let image = decode(&path, &bytes)?;
            let size = (image.height(), image.width());
            self.files.processor.check_aspect(size).map_err(|e| e.in_row(&path.display().to_string()))?;
            Ok((Digest::of(&bytes), size, image))
        });
        let (digest, size, image) = match read {
            Ok(read) => read,
            Err(Error::Data(reason)) => return Ok(Err(Unusable::unreadable(listed.unreadable(&reason)))),
            Err(other) => return Err(other),
        };
        self.check_model_input(&image, size).map_err(|e| e.in_row(&listed.label()))?;
        let in_row = |reason: &str| format!("{}: {reason}", listed.label());
        let image_tokens = self.files.processor.image_tokens(size);
        let item = Item {
            id: listed.id.clone(),
            image: listed.image.clone(),
            size,
            digest,
            conversation: listed.conversation.clone(),
            pair: listed.pair.clone(),
        };
        match self.fit(&item, image_tokens) {
            Ok(Fit::Fits { tokens }) => Ok(Ok(UsableItem { item, image_tokens, truncated: false, tokens })),
            Ok(Fit::Truncated { tokens }) => {
                Ok(Ok(UsableItem { item, image_tokens, truncated: true, tokens }))
            }
            Ok(Fit::TooLong(reason)) => Ok(Err(Unusable { reason: in_row(&reason), too_long: true })),
            Err(Error::Data(reason)) => Ok(Err(Unusable::unreadable(in_row(&reason)))),
            Err(other) => Err(other.in_row(&listed.label())),
        }
    }

    /// That the model takes what becomes of the image: a later step finds out only after hours.
    fn check_model_input(&self, image: &RgbImage, size: (u32, u32)) -> Result<()> {
        self.files.check_shapes(size)?;
        if self.files.processor.has_fixed_crops() && self.crops_checked.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.files.check_crops(image)
    }

    /// Whether everything that is made of the item fits.
    fn fit(&self, item: &Item, image_tokens: usize) -> Result<Fit> {
        let model = self.files.max_tokens();
        let limit = self.task.train.max_length.map_or(model, |length| model.min(length as usize));
        let too_long = |subject: &str, tokens: usize, limit: usize, fix: &str| {
            let named = if limit < model { "training.maxLength is" } else { "the model is limited to" };
            Fit::TooLong(format!(
                "{subject} needs {tokens} tokens, {image_tokens} of them for the image, but {named} {limit}; {fix}"
            ))
        };
        let prompt = self.longest_prompt + image_tokens + 1;
        if prompt > model {
            let fix = "shorten the prompts or leave the item out";
            return Ok(too_long("its longest prompt", prompt, model, fix));
        }
        // A pair is one example with two responses, each counted with its prompt.
        let examples = self.examples(item, image_tokens)?;
        let longest = examples.iter().map(|example| example.tokens.min(limit)).sum();
        let mut truncated = false;
        for Example { subject, tokens, first_answer, fix } in examples {
            if tokens <= limit {
                continue;
            }
            if self.task.train.max_length.is_none() {
                return Ok(too_long(subject, tokens, limit, fix));
            }
            if first_answer >= limit {
                let fix = "raise training.maxLength or leave the item out";
                return Ok(too_long("the text before its first answer", first_answer + 1, limit, fix));
            }
            truncated = true;
        }
        Ok(if truncated { Fit::Truncated { tokens: longest } } else { Fit::Fits { tokens: longest } })
    }

    /// The training examples that may be made of the item, as long as they can become.
    fn examples(&self, item: &Item, image_tokens: usize) -> Result<Vec<Example>> {
        let image = self.task.train.with_image.then_some(image_tokens);
        let example = |encoder: &Encoder, mut turns: Vec<Turn>, subject, more: u32, fix| -> Result<Example> {
            for turn in &mut turns {
                turn.image &= image.is_some();
            }
            let encoded = encoder.encode_supervised(&turns, image)?;
            let first_answer = encoded.labels.iter().position(|label| *label).unwrap_or_default();
            Ok(Example { subject, tokens: encoded.ids.len() + more as usize, first_answer, fix })
        };
        if let Some(pair) = &item.pair {
            return [&pair.chosen, &pair.rejected]
                .into_iter()
                .map(|response| {
                    let turns = vec![Turn::user_with_image(&pair.prompt), Turn::assistant(response)];
                    let fix =
                        "set training.maxLength to truncate it, shorten the responses or leave the item out";
                    example(&self.training, turns, "its pair", 0, fix)
                })
                .collect();
        }
        match (&self.task.recipe, &self.task.train.objective) {
            (DataRecipe::Descriptions(recipe), Objective::Sft { infusion }) => Ok(vec![example(
                &self.training,
                item.turns(infusion.as_deref(), ""),
                "its conversation with a description",
                recipe.sampling.max_new_tokens,
                "set training.maxLength to truncate it, lower description.sampling.maxNewTokens or leave the item out",
            )?]),
            (DataRecipe::Preferences(_), _) if !item.conversation.is_empty() => {
                let mut turns = item.turns(None, "");
                turns.truncate(2);
                let fix = "set training.maxLength to truncate it, or leave the item out";
                Ok(vec![example(&self.generation, turns, "its question and answer", 0, fix)?])
            }
            _ => {
                let first_answer = self.longest_training_prompt + image.unwrap_or_default();
                let fix = "shorten the prompts or leave the item out";
                Ok(vec![Example {
                    subject: "its longest prompt",
                    tokens: first_answer + 1,
                    first_answer,
                    fix,
                }])
            }
        }
    }
}

/// Whether an item fits the model and the length limit of the training.
enum Fit {
    Fits {
        tokens: usize,
    },
    /// The training cuts it off.
    Truncated {
        tokens: usize,
    },
    /// Why it cannot be used.
    TooLong(String),
}

/// A training example that may be made of an item.
struct Example {
    subject: &'static str,
    /// The most that it can have.
    tokens: usize,
    /// The tokens before the first that is learned, with an empty description.
    first_answer: usize,
    /// What to do if it is too long.
    fix: &'static str,
}
