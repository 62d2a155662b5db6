//! The loop of `train`: batches, steps, saved state, and the proof at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use stic_contract::recipe::{Lora, TrainRecipe};

use super::super::StepContext;
use super::super::examples::{Example, ExamplePixels};
use super::super::items::PreparedItems;
use super::super::proof::{self, Proof};
use super::super::vlm::Vlm;
use super::batch::Batches;
use super::read_ahead::ReadAhead;
use super::references::References;
use crate::error::{Error, Result};
use crate::io::metrics::{MetricsLog, StepMetrics};
use crate::io::progress::Reporter;
use crate::io::resume::States;
use crate::model::language::Limits;
use crate::model::lora::LoraAdapter;
use crate::training::adamw::AdamW;
use crate::training::schedule::learning_rate;

/// One training: its data, its recipe and where it starts.
pub(super) struct Training<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) prepared: &'a PreparedItems,
    pub(super) examples: &'a [Example],
    pub(super) recipe: &'a TrainRecipe,
    pub(super) seed: u64,
    pub(super) start: Option<&'a LoraAdapter>,
    pub(super) context: &'a StepContext,
}

/// Where a training leaves what an interrupted one goes on from, and what is reported of it.
pub(super) struct Places<'a> {
    pub(super) state: &'a Path,
    pub(super) draft: &'a Path,
    pub(super) references: References,
    pub(super) reporter: &'a mut Reporter,
}

impl Training<'_> {
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.examples.len().div_ceil(self.recipe.global_batch_size.max(1) as usize) as u64
    }

    pub(super) fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.recipe.epochs)
    }

    fn initial_adapter(&self) -> Result<LoraAdapter> {
        match (self.start, &self.recipe.lora) {
            (Some(start), None) => start.frozen_copy(),
            (None, Some(lora)) => self.new_adapter(lora),
            (Some(_), Some(_)) => Err(Error::Config(
                "training.lora: may not be given when an adapter is continued; its own shape is used".into(),
            )),
            (None, None) => {
                Err(Error::Config("training.lora: missing, and there is no adapter to continue".into()))
            }
        }
    }

    fn new_adapter(&self, lora: &Lora) -> Result<LoraAdapter> {
        LoraAdapter::new(&self.vlm.checked.config.text, lora, self.seed, self.vlm.device())
    }

    /// All steps, from the last saved state on; the adapter and the last step's metrics.
    pub(super) fn run(&self, mut places: Places<'_>) -> Result<(LoraAdapter, BTreeMap<String, f64>)> {
        let adapter = self.initial_adapter()?;
        let mut optimizer = AdamW::new(adapter.named_vars(), self.recipe.optimizer.weight_decay)?;
        let mut states = States::open(
            places.state,
            self.total_steps(),
            self.recipe.save_steps,
            &mut optimizer,
            self.vlm.device(),
        )?;
        let limits = Limits {
            stop: &self.context.stop,
            graph_bytes: self.context.activation_checkpointing.graph_bytes(self.vlm.device()),
        };
        let batches = Batches { training: self, adapter: &adapter, limits };
        let last = std::thread::scope(|scope| {
            let pixels = ReadAhead::start(scope, batches.pixels(optimizer.steps()..self.total_steps()));
            self.steps(&batches, &pixels, &mut optimizer, &mut states, &mut places)
        })?;
        Ok((adapter, last))
    }

    fn steps(
        &self,
        batches: &Batches<'_, '_>,
        pixels: &ReadAhead<Vec<ExamplePixels>>,
        optimizer: &mut AdamW,
        states: &mut States,
        places: &mut Places<'_>,
    ) -> Result<BTreeMap<String, f64>> {
        let Places { draft, references, reporter, .. } = places;
        let total = self.total_steps();
        let mut log = MetricsLog::open(draft, optimizer.steps())?;
        reporter.begin("training", "steps", optimizer.steps(), total)?;
        let mut last = BTreeMap::new();
        while optimizer.steps() < total {
            let done = optimizer.steps();
            let begun = Instant::now();
            let batch = batches.batch(done);
            let accumulated =
                self.context.stop.check().and_then(|()| batches.accumulate(&batch, pixels, references));
            if matches!(accumulated, Err(Error::Interrupted)) {
                references.save()?;
                states.keep(optimizer, true)?;
            }
            let (mut gradients, mut values) = accumulated?;
            let rate = learning_rate(&self.recipe.optimizer, done, total);
            let norm = gradients.clip(self.recipe.optimizer.max_gradient_norm)?;
            if !norm.is_finite() {
                return Err(Error::Data(format!(
                    "step {}: the gradient is not finite; lower training.optimizer.learningRate",
                    done + 1
                )));
            }
            optimizer.step(&gradients, rate)?;
            values.insert("learning_rate".into(), rate);
            values.insert("grad_norm".into(), norm);
            values.insert("tokens/s".into(), batch.tokens() as f64 / begun.elapsed().as_secs_f64());
            let step = optimizer.steps();
            log.append(&StepMetrics {
                step,
                epoch: step as f64 / self.steps_per_epoch() as f64,
                values: values.clone(),
            })?;
            reporter.metrics(values.clone());
            reporter.advance(1)?;
            last = values;
            if states.is_due(optimizer, false) {
                references.save()?;
                states.keep(optimizer, false)?;
            }
        }
        // What a step took is no fact of the adapter.
        last.remove("tokens/s");
        Ok(last)
    }

    /// Compares the saved adapter in `dir` with the trained one.
    pub(super) fn prove(&self, trained: &LoraAdapter, dir: &Path) -> Result<Proof> {
        let reloaded = self.vlm.load_adapter(dir)?;
        let compared = self
            .examples
            .iter()
            .take(proof::EXAMPLES)
            .map(|example| {
                let item = &self.prepared.get(example.item)?;
                let pixels = ExamplePixels::read(self.vlm, self.prepared, item, self.recipe, self.seed, 0)?;
                Ok((example, pixels.see(self.vlm, &self.context.stop)?))
            })
            .collect::<Result<Vec<_>>>()?;
        proof::prove(&self.vlm.model, trained, &reloaded, self.start, &compared)
    }
}
