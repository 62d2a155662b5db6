//! Rows of journals to token sequences, checked before the first step.

use candle_core::Tensor;
use stic_contract::recipe::{Objective, TrainRecipe};

use super::items::{Item, Message, PreparedItems};
use super::rows::{DescriptionRow, PreferenceRow};
use super::vlm::Vlm;
use crate::algorithm::corruption::add_noise;
use crate::algorithm::draw::Draw;
use crate::algorithm::infusion::infuse;
use crate::data::encode::Encoder;
use crate::data::processor::PixelValues;
use crate::data::template::{Role, Turn};
use crate::error::{Error, Result};
use crate::io::stop::Stop;
use crate::training::{Pair, Supervised};

/// One example as token ids.
#[derive(Debug, Clone)]
pub(super) struct Example {
    /// The item's index among the prepared ones.
    pub item: usize,
    /// The item's id.
    pub id: String,
    pub tokens: Tokens,
}

impl Example {
    /// As preference training takes it.
    pub(super) fn pair<'a>(&'a self, images: &'a ExampleImages) -> Result<Pair<'a>> {
        let Tokens::Pair { prompt, chosen, rejected } = &self.tokens else { return Err(other_objective()) };
        Ok(Pair {
            prompt,
            features: images.clean.as_ref(),
            rejected_features: images.noisy.as_ref(),
            responses: [chosen, rejected],
        })
    }

    /// As supervised training takes it.
    pub(super) fn supervised<'a>(&'a self, images: &'a ExampleImages) -> Result<Supervised<'a>> {
        let Tokens::Conversation { ids, learned } = &self.tokens else { return Err(other_objective()) };
        Ok(Supervised { ids, features: images.clean.as_ref(), learned })
    }
}

fn other_objective() -> Error {
    Error::Config("training.objective: is not that of the prepared examples".into())
}

#[derive(Debug, Clone)]
pub(super) enum Tokens {
    /// A prompt, and the chosen and rejected response.
    Pair { prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32> },
    /// A conversation and which of its tokens are learned.
    Conversation { ids: Vec<u32>, learned: Vec<bool> },
}

impl Tokens {
    /// All tokens that a pass reads.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Pair { prompt, chosen, rejected } => prompt.len() + chosen.len() + rejected.len(),
            Self::Conversation { ids, .. } => ids.len(),
        }
    }

    /// Tokens that are learned.
    pub(super) fn learned(&self) -> usize {
        match self {
            Self::Pair { chosen, rejected, .. } => chosen.len() + rejected.len(),
            Self::Conversation { learned, .. } => learned.iter().skip(1).filter(|l| **l).count(),
        }
    }
}

/// Builds examples under one recipe.
pub(super) struct ExampleBuilder<'a> {
    pub vlm: &'a Vlm,
    pub encoder: &'a Encoder,
    pub recipe: &'a TrainRecipe,
}

impl ExampleBuilder<'_> {
    fn image_tokens(&self, item: &Item) -> Option<usize> {
        self.recipe.with_image.then(|| self.vlm.checked.processor.image_tokens(item.size))
    }

    /// Of a pair; of its chosen half alone where the objective is SFT.
    pub(super) fn of_preference(&self, index: usize, item: &Item, row: &PreferenceRow) -> Result<Example> {
        let image_tokens = self.image_tokens(item);
        let turn =
            if image_tokens.is_some() { Turn::user_with_image(&row.prompt) } else { Turn::user(&row.prompt) };
        let prompt = self.encoder.encode_prompt(&[turn], image_tokens)?.ids;
        let chosen = self.fit(&item.id, prompt.len(), row.chosen.tokens.clone())?;
        let tokens = match (&self.recipe.objective, &row.rejected) {
            (Objective::Dpo(_), Some(rejected)) => Tokens::Pair {
                chosen,
                rejected: self.fit(&item.id, prompt.len(), rejected.tokens.clone())?,
                prompt,
            },
            (Objective::Dpo(_), None) => {
                return Err(Error::Data(format!(
                    "item {:?} has no rejected response; DPO needs one, negatives None is trained with SFT",
                    item.id
                )));
            }
            (Objective::Sft { .. }, _) => {
                let mut learned = vec![false; prompt.len()];
                learned.resize(prompt.len() + chosen.len(), true);
                Tokens::Conversation { ids: [prompt, chosen].concat(), learned }
            }
        };
        Ok(Example { item: index, id: item.id.clone(), tokens })
    }

    /// Of a conversation, its first turn infused with the description of its image.
    pub(super) fn of_description(&self, index: usize, item: &Item, row: &DescriptionRow) -> Result<Example> {
        let Objective::Sft { infusion } = &self.recipe.objective else {
            return Err(Error::Config("training.method: stage 2 is trained with SFT".into()));
        };
        let turns = conversation(item, infusion.as_deref(), &row.description.text);
        let encoded = self
            .encoder
            .encode_supervised(&turns, self.image_tokens(item))
            .map_err(|e| Error::Data(format!("item {:?}: {e}", item.id)))?;
        let (mut ids, mut learned) = (encoded.ids, encoded.labels);
        let limit = self.limit();
        if ids.len() > limit {
            self.too_long(&item.id, ids.len())?;
            ids.truncate(limit);
            learned.truncate(limit);
        }
        if !learned.iter().skip(1).any(|l| *l) {
            return Err(Error::Data(format!(
                "item {:?}: nothing of its answers is left within {limit} tokens; raise the limit or leave the item out",
                item.id
            )));
        }
        Ok(Example { item: index, id: item.id.clone(), tokens: Tokens::Conversation { ids, learned } })
    }

    fn limit(&self) -> usize {
        let model = self.vlm.checked.max_tokens();
        self.recipe.max_length.map_or(model, |limit| model.min(limit as usize))
    }

    fn fit(&self, id: &str, prompt: usize, mut response: Vec<u32>) -> Result<Vec<u32>> {
        if response.is_empty() {
            return Err(Error::Data(format!(
                "item {id:?} has an empty response; delete its row and generate it again"
            )));
        }
        let limit = self.limit();
        if prompt + response.len() > limit {
            self.too_long(id, prompt + response.len())?;
            response.truncate(limit.saturating_sub(prompt));
            if response.is_empty() {
                return Err(Error::Data(format!(
                    "item {id:?}: its prompt alone has {prompt} tokens, the limit is {limit}; shorten the prompt"
                )));
            }
        }
        Ok(response)
    }

    /// An example that does not fit is an error, unless the profile cuts.
    fn too_long(&self, id: &str, tokens: usize) -> Result<()> {
        if self.recipe.max_length.is_some() {
            return Ok(());
        }
        Err(Error::Data(format!(
            "item {id:?} has {tokens} tokens, the model takes {}; leave the item out or lower maxNewTokens",
            self.limit()
        )))
    }
}

/// The turns of an item, the first infused.
pub(super) fn conversation(item: &Item, infusion: Option<&str>, description: &str) -> Vec<Turn> {
    item.conversation
        .iter()
        .enumerate()
        .map(|(i, message)| {
            let text = match infusion {
                Some(template) if i == 0 => infuse(template, description, message.text()),
                _ => message.text().to_owned(),
            };
            let role = match message {
                Message::Human(_) => Role::User,
                Message::Gpt(_) => Role::Assistant,
            };
            Turn { role, text, image: i == 0 }
        })
        .collect()
}

/// The pixel values of an example's image; none of an example without one.
#[derive(Debug)]
pub(super) struct ExamplePixels {
    clean: Option<PixelValues>,
    /// POVID's: the image of the rejected response.
    noisy: Option<PixelValues>,
}

/// The image features of an example.
pub(super) struct ExampleImages {
    pub clean: Option<Tensor>,
    /// POVID's: the image of the rejected response.
    pub noisy: Option<Tensor>,
}

impl ExamplePixels {
    /// Reads an item's image; no tensor is computed.
    pub(super) fn read(
        vlm: &Vlm,
        prepared: &PreparedItems,
        item: &Item,
        recipe: &TrainRecipe,
        seed: u64,
        epoch: u64,
    ) -> Result<Self> {
        if !recipe.with_image {
            return Ok(Self { clean: None, noisy: None });
        }
        let clean = vlm.checked.processor.preprocess(&prepared.open_image(item)?)?;
        let noisy = noise_steps(recipe).map(|steps| {
            let mut noisy = clean.clone();
            let mut draw = Draw::new(seed, &item.id, &format!("training-noise {epoch}"));
            add_noise(&mut noisy, steps, &mut draw);
            noisy
        });
        Ok(Self { clean: Some(clean), noisy })
    }

    /// What the model sees.
    pub(super) fn see(&self, vlm: &Vlm, stop: &Stop) -> Result<ExampleImages> {
        let see = |pixels: &Option<PixelValues>| -> Result<Option<Tensor>> {
            let seen = pixels.as_ref().map(|pixels| vlm.see_pixels(pixels, stop)).transpose()?;
            Ok(seen.map(|seen| seen.features))
        };
        Ok(ExampleImages { clean: see(&self.clean)?, noisy: see(&self.noisy)? })
    }
}

/// How noisy the image of the rejected response is, where it is another than that of the chosen one.
pub(super) const fn noise_steps(recipe: &TrainRecipe) -> Option<u32> {
    match &recipe.objective {
        Objective::Dpo(dpo) if recipe.with_image => dpo.rejected_image_noise_steps,
        Objective::Dpo(_) | Objective::Sft { .. } => None,
    }
}
