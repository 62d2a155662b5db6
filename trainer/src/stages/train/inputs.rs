//! What a training starts from.

use stic_contract::recipe::{ActivationCheckpointing, TrainRecipe};

use super::super::context::StepContext;
use super::super::items::PreparedItems;
use super::examples::Example;
use crate::error::{Error, Result};
use crate::inference::Vlm;
use crate::model::lora::LoraAdapter;

/// Model, data and recipe of one training.
pub(super) struct TrainingInputs<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) prepared: &'a PreparedItems,
    pub(super) examples: &'a [Example],
    pub(super) recipe: &'a TrainRecipe,
    /// Which layers keep their activations, by the run config.
    pub(super) activation_checkpointing: ActivationCheckpointing,
    pub(super) seed: u64,
    /// The adapter to continue; `None` for a new one.
    pub(super) initial_adapter: Option<&'a LoraAdapter>,
    pub(super) context: &'a StepContext,
}

impl TrainingInputs<'_> {
    /// Examples of an optimizer step.
    pub(super) fn batch_size(&self) -> usize {
        self.recipe.global_batch_size.max(1) as usize
    }

    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.examples.len().div_ceil(self.batch_size()) as u64
    }

    pub(super) fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.recipe.epochs)
    }

    /// The adapter to train: a copy of the initial one, or a new one.
    pub(super) fn trainable_adapter(&self) -> Result<LoraAdapter> {
        match (self.initial_adapter, &self.recipe.lora) {
            (Some(initial), None) => initial.frozen_copy(),
            (None, Some(lora)) => {
                LoraAdapter::new(&self.vlm.files.config.text, lora, self.seed, self.vlm.device())
            }
            (Some(_), Some(_)) => Err(Error::Config(
                "training.lora: must not be set when an adapter is continued, which keeps its own rank and \
                 targets; remove it"
                    .into(),
            )),
            (None, None) => Err(Error::Config(
                "training.lora: missing, and there is no adapter to continue; set one of the two".into(),
            )),
        }
    }
}
