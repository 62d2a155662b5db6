//! Training data as token sequences, checked before the first step.

use candle_core::Tensor;
use stic_contract::recipe::{Objective, TrainRecipe};
use stic_contract::{ArtifactKind, StepName};

use super::super::items::{Item, PreparedItems};
use super::super::records::{DescriptionRecord, PreferenceRecord};
use super::degenerate::DegeneratePairs;
use crate::algorithm::corruption::add_noise;
use crate::algorithm::draw::Draw;
use crate::cancellation::CancellationToken;
use crate::data::encode::Encoder;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
use crate::error::{Error, Result};
use crate::inference::Vlm;
use crate::io::journal::Row;
use crate::training::{Pair, SupervisedExample};

/// What is made of an item, or why the item is left out of the training.
pub(super) type Built<T> = Result<T, String>;

/// A row of training data, and the example it becomes.
pub(super) trait TrainingRecord: Row {
    /// The artifact that holds such rows.
    const KIND: ArtifactKind;
    /// The step that generates it.
    const STEP: StepName;

    fn example(&self, builder: &ExampleBuilder<'_>, index: usize, item: &Item) -> Result<Built<Example>>;

    /// Counts what is wrong with a pair; other rows are no pairs.
    fn count_in(&self, _: &mut DegeneratePairs) {}
}

/// One example as token ids.
#[derive(Debug, Clone)]
pub(super) struct Example {
    /// The item's index among the prepared items.
    pub item: usize,
    /// The item's id.
    pub id: String,
    pub tokens: Tokens,
}

impl Example {
    /// For preference training.
    pub(super) fn pair<'a>(&'a self, images: &'a ExampleImages) -> Result<Pair<'a>> {
        let Tokens::Pair { prompt, chosen, rejected } = &self.tokens else { return Err(wrong_objective()) };
        Ok(Pair {
            prompt,
            features: images.clean.as_ref(),
            rejected_features: images.noisy.as_ref(),
            responses: [chosen, rejected],
        })
    }

    /// As supervised training takes it.
    pub(super) fn supervised<'a>(&'a self, images: &'a ExampleImages) -> Result<SupervisedExample<'a>> {
        let Tokens::Conversation { ids, learned } = &self.tokens else { return Err(wrong_objective()) };
        Ok(SupervisedExample { ids, features: images.clean.as_ref(), learned })
    }
}

fn wrong_objective() -> Error {
    Error::Config(
        "training.objective: does not match the prepared examples; run the run's earlier steps again".into(),
    )
}

#[derive(Debug, Clone)]
pub(super) enum Tokens {
    /// DPO.
    Pair { prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32> },
    /// SFT, and which of the tokens are learned.
    Conversation { ids: Vec<u32>, learned: Vec<bool> },
}

impl Tokens {
    /// All tokens of a forward pass.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Pair { prompt, chosen, rejected } => prompt.len() + chosen.len() + rejected.len(),
            Self::Conversation { ids, .. } => ids.len(),
        }
    }

    /// Tokens of the pass over it. Unless the responses share the computation of their prompt, it is computed for each.
    pub(super) fn in_pass(&self, shared: bool) -> usize {
        match self {
            Self::Pair { prompt, .. } if !shared => self.len() + prompt.len(),
            _ => self.len(),
        }
    }

    /// Tokens of the longest sequence: of a prompt with one response.
    pub(super) fn sequence(&self) -> usize {
        match self {
            Self::Pair { prompt, chosen, rejected } => prompt.len() + chosen.len().max(rejected.len()),
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

impl TrainingRecord for PreferenceRecord {
    const KIND: ArtifactKind = ArtifactKind::Preferences;
    const STEP: StepName = StepName::Generate;

    fn example(&self, builder: &ExampleBuilder<'_>, index: usize, item: &Item) -> Result<Built<Example>> {
        builder.preference(index, item, self)
    }

    fn count_in(&self, degenerate: &mut DegeneratePairs) {
        degenerate.add(self);
    }
}

impl TrainingRecord for DescriptionRecord {
    const KIND: ArtifactKind = ArtifactKind::Descriptions;
    const STEP: StepName = StepName::Describe;

    fn example(&self, builder: &ExampleBuilder<'_>, index: usize, item: &Item) -> Result<Built<Example>> {
        builder.description(index, item, self)
    }
}

pub(super) struct ExampleBuilder<'a> {
    pub vlm: &'a Vlm,
    pub encoder: &'a Encoder,
    pub recipe: &'a TrainRecipe,
}

impl ExampleBuilder<'_> {
    fn image_tokens(&self, item: &Item) -> Option<usize> {
        self.recipe.with_image.then(|| self.vlm.files.processor.image_tokens(item.size))
    }

    /// A pair for DPO; its chosen response alone for SFT.
    fn preference(&self, index: usize, item: &Item, record: &PreferenceRecord) -> Result<Built<Example>> {
        let image_tokens = self.image_tokens(item);
        let turn = if image_tokens.is_some() {
            Turn::user_with_image(&record.prompt)
        } else {
            Turn::user(&record.prompt)
        };
        let prompt = self.encoder.encode_prompt(&[turn], image_tokens)?.ids;
        let fit = |response: &[u32]| self.fit(&item.id, prompt.len(), response);
        let chosen = fit(&record.chosen.tokens)?;
        let rejected = match (&self.recipe.objective, &record.rejected) {
            (Objective::Dpo(_), Some(rejected)) => Some(fit(&rejected.tokens)?),
            (Objective::Dpo(_), None) => {
                return Err(Error::Data(format!(
                    "item {:?} has no rejected response, which DPO needs; with negatives: None train with SFT",
                    item.id
                )));
            }
            (Objective::Sft { .. }, _) => None,
        };
        let tokens = match (chosen, rejected) {
            (Err(reason), _) | (_, Some(Err(reason))) => return Ok(Err(reason)),
            (Ok(chosen), Some(Ok(rejected))) => Tokens::Pair { prompt, chosen, rejected },
            (Ok(chosen), None) => {
                let mut learned = vec![false; prompt.len()];
                learned.resize(prompt.len() + chosen.len(), true);
                Tokens::Conversation { ids: [prompt, chosen].concat(), learned }
            }
        };
        Ok(Ok(Example { item: index, id: item.id.clone(), tokens }))
    }

    /// A conversation whose first turn is infused with the description of its image.
    fn description(&self, index: usize, item: &Item, record: &DescriptionRecord) -> Result<Built<Example>> {
        let Objective::Sft { infusion } = &self.recipe.objective else {
            return Err(Error::Config(
                "training.method: stage 2 trains with SFT only; set method to SFT".into(),
            ));
        };
        let turns = item.turns(infusion.as_deref(), &record.description.text);
        let encoded = self
            .encoder
            .encode_supervised(&turns, self.image_tokens(item))
            .map_err(|e| Error::Data(format!("item {:?}: {e}", item.id)))?;
        let (mut ids, mut learned) = (encoded.ids, encoded.labels);
        let limit = self.limit();
        if ids.len() > limit {
            if self.recipe.max_length.is_none() {
                return Ok(Err(self.too_long(ids.len())));
            }
            ids.truncate(limit);
            learned.truncate(limit);
        }
        if !learned.iter().skip(1).any(|l| *l) {
            return Ok(Err(format!(
                "with its description, no answer begins within the first {limit} tokens; raise training.maxLength or lower description.sampling.maxNewTokens"
            )));
        }
        Ok(Ok(Example { item: index, id: item.id.clone(), tokens: Tokens::Conversation { ids, learned } }))
    }

    fn limit(&self) -> usize {
        let model = self.vlm.files.max_tokens();
        self.recipe.max_length.map_or(model, |limit| model.min(limit as usize))
    }

    /// The response, cut off where the recipe says so.
    fn fit(&self, id: &str, prompt: usize, response: &[u32]) -> Result<Built<Vec<u32>>> {
        if response.is_empty() {
            return Err(Error::Data(format!(
                "item {id:?} has an empty response; delete its row and generate it again"
            )));
        }
        let limit = self.limit();
        if prompt + response.len() <= limit {
            return Ok(Ok(response.to_vec()));
        }
        if self.recipe.max_length.is_none() {
            return Ok(Err(self.too_long(prompt + response.len())));
        }
        match limit.saturating_sub(prompt) {
            0 => Ok(Err(format!(
                "its prompt alone has {prompt} tokens, but the limit is {limit}; raise training.maxLength or shorten the prompt"
            ))),
            rest => Ok(Ok(response[..rest].to_vec())),
        }
    }

    /// Why an example that does not fit the model is left out, where the recipe does not cut it off.
    fn too_long(&self, tokens: usize) -> String {
        format!(
            "it has {tokens} tokens, but the model is limited to {}; set training.maxLength to cut it off, or lower maxNewTokens",
            self.limit()
        )
    }
}

/// The pixel values of an example's image, if it has one.
#[derive(Debug)]
pub(super) struct ExamplePixels {
    clean: Option<PixelValues>,
    /// POVID: the image of the rejected response.
    noisy: Option<PixelValues>,
}

/// The image features of an example.
pub(super) struct ExampleImages {
    pub clean: Option<Tensor>,
    /// POVID: the image of the rejected response.
    pub noisy: Option<Tensor>,
}

impl ExamplePixels {
    /// Reads and preprocesses an item's image.
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
        let clean = vlm.files.processor.preprocess(&prepared.open_image(item)?)?;
        let noisy = noise_steps(recipe).map(|steps| {
            let mut noisy = clean.clone();
            let mut draw = Draw::new(seed, &item.id, &format!("training-noise {epoch}"));
            add_noise(&mut noisy, steps, &mut draw);
            noisy
        });
        Ok(Self { clean: Some(clean), noisy })
    }

    /// The features of the images.
    pub(super) fn encode(&self, vlm: &Vlm, cancellation: &CancellationToken) -> Result<ExampleImages> {
        let encode = |pixels: &Option<PixelValues>| -> Result<Option<Tensor>> {
            let image = pixels.as_ref().map(|pixels| vlm.encode_image(pixels, cancellation)).transpose()?;
            Ok(image.map(|image| image.features))
        };
        Ok(ExampleImages { clean: encode(&self.clean)?, noisy: encode(&self.noisy)? })
    }
}

/// The noise on the image of the rejected response, if it differs from the image of the chosen one.
pub(in crate::stages) const fn noise_steps(recipe: &TrainRecipe) -> Option<u32> {
    match &recipe.objective {
        Objective::Dpo(dpo) if recipe.with_image => dpo.rejected_image_noise_steps,
        Objective::Dpo(_) | Objective::Sft { .. } => None,
    }
}
