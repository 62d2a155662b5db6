//! The gradients of one batch: packs of examples, one after the other, all threads in each.

use std::collections::BTreeMap;

use stic_contract::recipe::Objective;

use super::super::examples::{Example, ExampleImages, ExamplePixels, noise_steps};
use super::super::proof;
use super::packs;
use super::read_ahead::ReadAhead;
use super::references::References;
use super::steps::Training;
use crate::algorithm::draw::Draw;
use crate::algorithm::losses::{PairLogProbs, PairLoss};
use crate::error::Result;
use crate::model::Gradients;
use crate::model::language::Limits;
use crate::model::lora::{Adapted, DropoutKey, LoraAdapter};
use crate::training::step::{preference_step, reference_log_probs, supervised_step};

/// The examples of a step, in the packs in which they are computed.
pub(super) struct Batch<'a> {
    pub(super) epoch: u64,
    pub(super) packs: Vec<Vec<&'a Example>>,
}

impl Batch<'_> {
    /// All tokens that it reads.
    pub(super) fn tokens(&self) -> usize {
        self.packs.iter().flatten().map(|example| example.tokens.len()).sum()
    }
}

/// What the batches of a training have in common.
pub(super) struct Batches<'t, 'a> {
    pub(super) training: &'t Training<'a>,
    pub(super) adapter: &'t LoraAdapter,
    pub(super) limits: Limits<'t>,
}

impl<'t> Batches<'t, '_> {
    /// The batch of step `done` (the first is 0): each epoch has an order of its own, drawn per item.
    pub(super) fn batch(&self, done: u64) -> Batch<'t> {
        let Training { examples, recipe, seed, .. } = self.training;
        let epoch = done / self.training.steps_per_epoch();
        let mut order: Vec<_> = examples
            .iter()
            .map(|example| {
                let id = example.id.as_str();
                (Draw::new(*seed, id, &format!("order {epoch}")).uniform(), id, example)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        let size = recipe.global_batch_size.max(1) as usize;
        let first = (done % self.training.steps_per_epoch()) as usize * size;
        let batch: Vec<_> = order.into_iter().skip(first).take(size).collect();
        // Dropout and noise are keyed by item: an example that has them is computed by itself.
        let alone = self.adapter.dropout() > 0.0 || noise_steps(recipe).is_some();
        let budget = if alone { 0 } else { packs::TOKENS };
        let lengths: Vec<_> = batch.iter().map(|(_, id, example)| (*id, example.tokens.len())).collect();
        let packs = packs::plan(&lengths, budget)
            .into_iter()
            .map(|pack| pack.into_iter().map(|index| batch[index].2).collect())
            .collect();
        Batch { epoch, packs }
    }

    /// The pixels of every pack of the batches of these steps.
    pub(super) fn pixels(
        &self,
        steps: std::ops::Range<u64>,
    ) -> impl Iterator<Item = Result<Vec<ExamplePixels>>> {
        let Training { vlm, prepared, recipe, seed, .. } = *self.training;
        steps.flat_map(move |step| {
            let Batch { epoch, packs } = self.batch(step);
            packs.into_iter().map(move |pack| {
                let read = |example: &Example| {
                    ExamplePixels::read(vlm, prepared, &prepared.get(example.item)?, recipe, seed, epoch)
                };
                pack.into_iter().map(read).collect()
            })
        })
    }

    /// The gradients of a batch, and what to report of it.
    pub(super) fn accumulate(
        &self,
        batch: &Batch<'_>,
        pixels: &ReadAhead<Vec<ExamplePixels>>,
        references: &mut References,
    ) -> Result<(Gradients, BTreeMap<String, f64>)> {
        let examples = || batch.packs.iter().flatten();
        let weight = match &self.training.recipe.objective {
            Objective::Dpo(_) => 1.0 / examples().count() as f64,
            Objective::Sft { .. } => {
                1.0 / examples().map(|example| example.tokens.learned()).sum::<usize>().max(1) as f64
            }
        };
        let mut gradients = Gradients::default();
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for pack in &batch.packs {
            let mut seen = Vec::with_capacity(pack.len());
            for (example, pixels) in pack.iter().zip(pixels.take()?) {
                seen.push((*example, pixels.see(self.training.vlm, self.limits.stop)?));
            }
            for metrics in self.step(&seen, batch.epoch, weight, references, &mut gradients)? {
                for (name, value) in metrics {
                    *sums.entry(name.to_owned()).or_default() += value * weight;
                }
            }
        }
        Ok((gradients, sums))
    }

    /// Adds a pack's gradients, and returns what to report of each example.
    fn step(
        &self,
        pack: &[(&Example, ExampleImages)],
        epoch: u64,
        weight: f64,
        references: &mut References,
        gradients: &mut Gradients,
    ) -> Result<Vec<Vec<(&'static str, f64)>>> {
        let Training { vlm, start, seed, recipe, .. } = self.training;
        let dropout = match pack {
            [(example, _)] if self.adapter.dropout() > 0.0 => {
                Some(DropoutKey { seed: *seed, item: example.id.clone(), pass: format!("epoch {epoch}") })
            }
            _ => None,
        };
        let adapted = Adapted { adapter: self.adapter, dropout: dropout.as_ref(), merged: false };
        let model = &vlm.model;
        match &recipe.objective {
            Objective::Dpo(dpo) => {
                let reference = proof::reference_adapter(dpo.reference, *start);
                let mut pairs = Vec::with_capacity(pack.len());
                for (example, images) in pack {
                    let pair = example.pair(images)?;
                    let known = references.of(&example.id, || {
                        reference_log_probs(model, &pair, reference, dpo.rejected_term, self.limits.stop)
                    })?;
                    pairs.push((pair, known));
                }
                let losses = preference_step(model, &pairs, adapted, dpo, weight, self.limits, gradients)?;
                Ok(losses.iter().map(preference_metrics).collect())
            }
            Objective::Sft { .. } => {
                let examples = pack
                    .iter()
                    .map(|(example, images)| example.supervised(images))
                    .collect::<Result<Vec<_>>>()?;
                let sums = supervised_step(model, &examples, adapted, weight, self.limits, gradients)?;
                Ok(sums.iter().map(|sum| vec![("loss", -sum.sum)]).collect())
            }
        }
    }
}

/// Under the names that TRL gives them.
fn preference_metrics((loss, policy): &(PairLoss, PairLogProbs)) -> Vec<(&'static str, f64)> {
    let (chosen, rejected) = (loss.reward_chosen, loss.reward_rejected);
    vec![
        ("loss", loss.loss),
        ("rewards/chosen", chosen),
        ("rewards/rejected", rejected),
        ("rewards/margins", chosen - rejected),
        ("rewards/accuracies", if chosen > rejected { 1.0 } else { 0.0 }),
        ("logps/chosen", policy.chosen.sum),
        ("logps/rejected", policy.rejected.sum),
    ]
}
