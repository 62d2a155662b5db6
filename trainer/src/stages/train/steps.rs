//! The loop of `train`: batches, steps, saved state, and the proof at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use stic_contract::recipe::{Lora, Objective, TrainRecipe};

use super::super::examples::{Example, Tokens, images_of};
use super::super::items::PreparedItems;
use super::super::proof::{self, Proof};
use super::super::vlm::Vlm;
use super::super::{StepContext, pool};
use crate::algorithm::draw::Draw;
use crate::error::{Error, Result};
use crate::io::metrics::{MetricsLog, StepMetrics};
use crate::io::progress::Reporter;
use crate::io::resume::States;
use crate::model::Gradients;
use crate::model::lora::{DropoutKey, LoraAdapter};
use crate::training::adamw::AdamW;
use crate::training::schedule::learning_rate;
use crate::training::step::{Branches, Policies, Supervised, preference_step, supervised_step};

/// What one example gives to its batch.
#[derive(Debug, Clone)]
struct Share {
    gradients: Gradients,
    /// By name, already weighted.
    metrics: Vec<(&'static str, f64)>,
}

/// One training: its data, its recipe and where it starts.
pub(super) struct Training<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) prepared: &'a PreparedItems,
    pub(super) recipe: &'a TrainRecipe,
    pub(super) seed: u64,
    pub(super) start: Option<&'a LoraAdapter>,
    pub(super) context: &'a StepContext,
}

impl Training<'_> {
    fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.recipe.global_batch_size.max(1) as usize) as u64
    }

    pub(super) fn total_steps(&self, examples: usize) -> u64 {
        self.steps_per_epoch(examples) * u64::from(self.recipe.epochs)
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
    pub(super) fn run(
        &self,
        examples: &[Example],
        state_dir: &Path,
        draft_dir: &Path,
        reporter: &mut Reporter,
    ) -> Result<(LoraAdapter, BTreeMap<String, f64>)> {
        let adapter = self.initial_adapter()?;
        let mut optimizer = AdamW::new(adapter.named_vars(), self.recipe.optimizer.weight_decay)?;
        let mut states = States::open(state_dir, &mut optimizer, self.vlm.device())?;
        let total = self.total_steps(examples.len());
        let mut log = MetricsLog::open(draft_dir, optimizer.steps())?;
        reporter.begin("training", "steps", optimizer.steps(), total)?;
        let mut last = BTreeMap::new();
        while optimizer.steps() < total {
            let done = optimizer.steps();
            let begun = Instant::now();
            let epoch = done / self.steps_per_epoch(examples.len());
            let batch = self.batch(examples, epoch, done);
            let accumulated =
                match self.context.stop.check().and_then(|()| self.accumulate(&batch, &adapter, epoch)) {
                    Err(Error::Interrupted) => {
                        states.keep(&optimizer, total, self.recipe.save_steps, true)?;
                        return Err(Error::Interrupted);
                    }
                    other => other?,
                };
            let (mut gradients, mut values, tokens) = accumulated;
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
            values.insert("tokens/s".into(), tokens as f64 / begun.elapsed().as_secs_f64());
            let step = optimizer.steps();
            log.append(&StepMetrics {
                step,
                epoch: step as f64 / self.steps_per_epoch(examples.len()) as f64,
                values: values.clone(),
            })?;
            reporter.metrics(values.clone());
            reporter.advance(1)?;
            last = values;
            states.keep(&optimizer, total, self.recipe.save_steps, false)?;
        }
        // What a step took is no fact of the adapter.
        last.remove("tokens/s");
        Ok((adapter, last))
    }

    /// The examples of step `done` (the first is 0): each epoch has an order of its own, drawn per item.
    fn batch<'e>(&self, examples: &'e [Example], epoch: u64, done: u64) -> Vec<&'e Example> {
        let size = self.recipe.global_batch_size.max(1) as usize;
        let mut order: Vec<_> = examples
            .iter()
            .map(|example| {
                let id = &example.id;
                (Draw::new(self.seed, id, &format!("order {epoch}")).uniform(), id, example)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        let first = (done % self.steps_per_epoch(examples.len())) as usize * size;
        order.into_iter().skip(first).take(size).map(|(.., example)| example).collect()
    }

    /// The gradients of a batch, what to report of it, and the tokens read.
    fn accumulate(
        &self,
        batch: &[&Example],
        adapter: &LoraAdapter,
        epoch: u64,
    ) -> Result<(Gradients, BTreeMap<String, f64>, usize)> {
        let weight = match &self.recipe.objective {
            Objective::Dpo(_) => 1.0 / batch.len() as f64,
            Objective::Sft { .. } => {
                1.0 / batch.iter().map(|e| e.tokens.learned()).sum::<usize>().max(1) as f64
            }
        };
        let mut gradients = Gradients::default();
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let workers = pool::workers(self.vlm.device());
        // As many gradients as there are workers are in memory at once; they are added in the order of the batch.
        for group in batch.chunks(workers) {
            let mut results: Vec<Option<Share>> = vec![None; group.len()];
            let indexed: Vec<(usize, &Example)> = group.iter().copied().enumerate().collect();
            pool::for_each(
                &indexed,
                workers,
                |(_, example)| {
                    self.context.stop.check()?;
                    self.example_step(example, adapter, weight, epoch)
                },
                |(slot, _), result| {
                    results[*slot] = Some(result);
                    Ok(())
                },
            )?;
            for share in results.into_iter().flatten() {
                gradients.add(&share.gradients)?;
                for (name, value) in share.metrics {
                    *sums.entry(name.to_owned()).or_default() += value;
                }
            }
        }
        Ok((gradients, sums, batch.iter().map(|e| e.tokens.len()).sum()))
    }

    /// One example's gradients, and its share of each metric of the batch.
    fn example_step(
        &self,
        example: &Example,
        adapter: &LoraAdapter,
        weight: f64,
        epoch: u64,
    ) -> Result<Share> {
        let item = &self.prepared.get(example.item)?;
        let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
        let images = images_of(self.vlm, self.prepared, item, self.recipe, self.seed, epoch)?;
        let dropout = (adapter.dropout() > 0.0).then(|| DropoutKey {
            seed: self.seed,
            item: item.id.clone(),
            pass: format!("epoch {epoch}"),
        });
        let model = &self.vlm.model;
        match (&self.recipe.objective, &example.tokens) {
            (Objective::Dpo(dpo), Tokens::Pair { prompt, chosen, rejected }) => {
                let responses: [&[u32]; 2] = [chosen, rejected];
                let branches = Branches { prompt, features: images.clean.as_ref(), responses: &responses };
                let reference = proof::reference_adapter(dpo.reference, self.start);
                let policies = Policies { policy: adapter, reference };
                let noisy = images.noisy.as_ref();
                let (loss, policy, gradients) =
                    preference_step(model, &branches, noisy, policies, dpo, weight, dropout.as_ref())?;
                let (reward_chosen, reward_rejected) = (loss.reward_chosen, loss.reward_rejected);
                let right = if reward_chosen > reward_rejected { 1.0 } else { 0.0 };
                let metrics = vec![
                    ("loss", loss.loss * weight),
                    ("rewards/chosen", reward_chosen * weight),
                    ("rewards/rejected", reward_rejected * weight),
                    ("rewards/margins", (reward_chosen - reward_rejected) * weight),
                    ("rewards/accuracies", right * weight),
                    ("logps/chosen", policy.chosen.sum * weight),
                    ("logps/rejected", policy.rejected.sum * weight),
                ];
                Ok(Share { gradients, metrics })
            }
            (Objective::Sft { .. }, Tokens::Conversation { ids, learned }) => {
                let example = Supervised { ids, features: images.clean.as_ref(), learned };
                let (sum, gradients) = supervised_step(model, &example, adapter, weight, dropout.as_ref())?;
                Ok(Share { gradients, metrics: vec![("loss", -sum.sum * weight)] })
            }
            _ => Err(Error::Config("training.objective: is not that of the prepared examples".into())),
        }
    }

    /// Compares the saved adapter in `dir` with the trained one.
    pub(super) fn prove(&self, examples: &[Example], trained: &LoraAdapter, dir: &Path) -> Result<Proof> {
        let reloaded = self.vlm.load_adapter(dir)?;
        let compared = examples
            .iter()
            .take(proof::EXAMPLES)
            .map(|example| {
                let item = &self.prepared.get(example.item)?;
                Ok((example, images_of(self.vlm, self.prepared, item, self.recipe, self.seed, 0)?))
            })
            .collect::<Result<Vec<_>>>()?;
        proof::prove(&self.vlm.model, trained, &reloaded, self.start, &compared)
    }
}
