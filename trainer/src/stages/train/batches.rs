//! The batches of a training, and the gradients of each: packs of examples, one after the other, all threads in each.

use std::collections::BTreeMap;

use candle_core::Tensor;
use stic_contract::recipe::{Objective, Reference};

use super::examples::{Example, ExampleImages, ExamplePixels, noise_steps};
use super::inputs::TrainingInputs;
use super::packing;
use super::reference_log_probs::ReferenceLogProbs;
use crate::algorithm::draw::Draw;
use crate::algorithm::losses::PairLoss;
use crate::error::{Error, Result};
use crate::inference::Prefetcher;
use crate::kernels::storage::supports;
use crate::model::Gradients;
use crate::model::language::PassLimits;
use crate::model::lora::{ActiveAdapter, DropoutKey, LoraAdapter};
use crate::training::step::{preference_step, reference_log_probs, supervised_step};

/// The metric of the gradients' norm before clipping.
pub(super) const GRADIENT_NORM: &str = "grad_norm";

/// The examples of a step, in the packs in which they are computed.
pub(super) struct Batch<'a> {
    pub(super) epoch: u64,
    pub(super) packs: Vec<Vec<&'a Example>>,
}

impl Batch<'_> {
    /// Tokens of all examples.
    pub(super) fn tokens(&self) -> usize {
        self.packs.iter().flatten().map(|example| example.tokens.len()).sum()
    }
}

/// All batches of a training.
pub(super) struct Batches<'t, 'a> {
    pub(super) inputs: &'t TrainingInputs<'a>,
    pub(super) adapter: &'t LoraAdapter,
    pub(super) limits: PassLimits<'t>,
    /// Whether examples of a batch are computed as one sequence.
    pub(super) packed: bool,
}

/// Whether examples of a batch can share a pass. Dropout and noise are keyed by item, so with either an example cannot. Without kernels a
/// pair is computed as it was under the reference policy, by itself: with others it would be rounded differently.
pub(super) fn is_packed(inputs: &TrainingInputs<'_>, adapter: &LoraAdapter) -> bool {
    let preferences = matches!(inputs.recipe.objective, Objective::Dpo(_));
    adapter.dropout() == 0.0 && noise_steps(inputs.recipe).is_none() && (!preferences || in_kernels(inputs))
}

/// Whether the model computes in the kernels, which give a token the same bits whatever else is in the pass.
fn in_kernels(inputs: &TrainingInputs<'_>) -> bool {
    supports(inputs.vlm.device(), inputs.vlm.model.language.dtype())
}

/// The examples in the order of an epoch. Each epoch has an order of its own, drawn per item.
pub(super) fn order<'a>(inputs: &TrainingInputs<'a>, epoch: u64) -> Vec<&'a Example> {
    let mut order: Vec<_> = inputs
        .examples
        .iter()
        .map(|example| {
            let id = example.id.as_str();
            (Draw::new(inputs.seed, id, &format!("order {epoch}")).uniform(), id, example)
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    order.into_iter().map(|(_, _, example)| example).collect()
}

/// The examples of a batch in the packs in which they are computed.
pub(super) fn packs<'a>(batch: &[&'a Example], packed: bool) -> Vec<Vec<&'a Example>> {
    let budget = if packed { packing::MAX_TOKENS } else { 0 };
    let lengths: Vec<_> = batch.iter().map(|example| (example.id.as_str(), example.tokens.len())).collect();
    let plan = packing::plan(&lengths, budget);
    plan.into_iter().map(|pack| pack.into_iter().map(|index| batch[index]).collect()).collect()
}

impl<'t> Batches<'t, '_> {
    /// The batch of step `done`, counted from 0.
    pub(super) fn batch(&self, done: u64) -> Batch<'t> {
        let epoch = done / self.inputs.steps_per_epoch();
        let size = self.inputs.batch_size();
        let first = (done % self.inputs.steps_per_epoch()) as usize * size;
        let batch: Vec<_> = order(self.inputs, epoch).into_iter().skip(first).take(size).collect();
        Batch { epoch, packs: packs(&batch, self.packed) }
    }

    /// The pixels of every pack of these steps' batches.
    pub(super) fn pixels(
        &self,
        steps: std::ops::Range<u64>,
    ) -> impl Iterator<Item = Result<Vec<ExamplePixels>>> {
        let TrainingInputs { vlm, prepared, recipe, seed, .. } = *self.inputs;
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

    /// The gradients of a batch, and the values that [`Batches::metrics`] reads; `pixels` are those of its packs.
    pub(super) fn accumulate(
        &self,
        batch: &Batch<'_>,
        pixels: &mut Prefetcher<Vec<ExamplePixels>>,
        references: &ReferenceLogProbs,
    ) -> Result<(Gradients, Vec<Tensor>)> {
        let weight = self.weight(batch);
        let mut gradients = Gradients::default();
        let mut values = Vec::with_capacity(batch.packs.len());
        for pack in &batch.packs {
            let exhausted =
                || Error::from(candle_core::Error::Msg("more packs than prefetched images".into()));
            let pixels = pixels.next().ok_or_else(exhausted)??;
            let mut encoded = Vec::with_capacity(pack.len());
            for (example, pixels) in pack.iter().zip(pixels) {
                encoded.push((*example, pixels.encode(self.inputs.vlm, self.limits.cancellation)?));
            }
            values.push(self.backward(&encoded, batch.epoch, weight, references, &mut gradients)?);
        }
        Ok((gradients, values))
    }

    /// What the loss of each example of a batch is multiplied by.
    fn weight(&self, batch: &Batch<'_>) -> f64 {
        let examples = || batch.packs.iter().flatten();
        match &self.inputs.recipe.objective {
            Objective::Dpo(_) => 1.0 / examples().count() as f64,
            Objective::Sft { .. } => {
                1.0 / examples().map(|example| example.tokens.learned()).sum::<usize>().max(1) as f64
            }
        }
    }

    /// Adds a pack's gradients, and returns values of its examples that nothing has waited for.
    fn backward(
        &self,
        pack: &[(&Example, ExampleImages)],
        epoch: u64,
        weight: f64,
        references: &ReferenceLogProbs,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let TrainingInputs { vlm, initial_adapter, seed, recipe, .. } = self.inputs;
        let dropout = match pack {
            [(example, _)] if self.adapter.dropout() > 0.0 => {
                Some(DropoutKey { seed: *seed, item: example.id.clone(), pass: format!("epoch {epoch}") })
            }
            _ => None,
        };
        let adapted = ActiveAdapter { adapter: self.adapter, dropout: dropout.as_ref(), merged: false };
        let model = &vlm.model;
        match &recipe.objective {
            Objective::Dpo(dpo) => {
                let reference = match dpo.reference {
                    Reference::Base => None,
                    Reference::InitialAdapter => *initial_adapter,
                };
                let shared = dropout.is_none() || in_kernels(self.inputs);
                let (term, cancellation) = (dpo.rejected_term, self.limits.cancellation);
                let mut pairs = Vec::with_capacity(pack.len());
                for (example, images) in pack {
                    let pair = example.pair(images)?;
                    let sums = match references.get(&example.id) {
                        Some(known) => Tensor::new(&known, vlm.device())?,
                        None => reference_log_probs(model, &pair, reference, term, shared, cancellation)?,
                    };
                    pairs.push((pair, sums));
                }
                preference_step(model, &pairs, adapted, dpo, weight, self.limits, gradients)
            }
            Objective::Sft { .. } => {
                let examples = pack
                    .iter()
                    .map(|(example, images)| example.supervised(images))
                    .collect::<Result<Vec<_>>>()?;
                supervised_step(model, &examples, adapted, weight, self.limits, gradients)
            }
        }
    }

    /// Reads the values of a batch and the norm of its gradients from the device, once for the whole step because it
    /// waits for all that the device has to do. Returns the metrics of the batch, and remembers its references.
    pub(super) fn metrics(
        &self,
        batch: &Batch<'_>,
        values: &[Tensor],
        norm: &Tensor,
        references: &mut ReferenceLogProbs,
    ) -> Result<BTreeMap<String, f64>> {
        let flat = values.iter().map(Tensor::flatten_all).chain([norm.flatten_all()]);
        let flat = Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 0)?.to_vec1::<f64>()?;
        let (norm, values) = flat.split_last().ok_or_else(|| candle_core::Error::Msg("no norm".into()))?;
        let weight = self.weight(batch);
        let mut sums = BTreeMap::from([(GRADIENT_NORM.to_owned(), *norm)]);
        let mut add = |name: &str, value: f64| *sums.entry(name.to_owned()).or_default() += value * weight;
        match &self.inputs.recipe.objective {
            Objective::Dpo(dpo) => {
                for (example, loss) in batch.packs.iter().flatten().zip(PairLoss::read(values)) {
                    references.insert(&example.id, loss.reference);
                    preference_metrics(&loss, dpo.beta)
                        .into_iter()
                        .for_each(|(name, value)| add(name, value));
                }
            }
            Objective::Sft { .. } => values.iter().for_each(|log_prob| add("loss", -log_prob)),
        }
        Ok(sums)
    }
}

/// Named as in TRL.
fn preference_metrics(loss: &PairLoss, beta: f64) -> [(&'static str, f64); 7] {
    let (chosen, rejected) = (loss.reward_chosen, loss.reward_rejected);
    [
        ("loss", loss.loss),
        ("rewards/chosen", chosen),
        ("rewards/rejected", rejected),
        ("rewards/margins", chosen - rejected),
        ("rewards/accuracies", if loss.prefers_chosen(beta) { 1.0 } else { 0.0 }),
        ("logps/chosen", loss.policy[0]),
        ("logps/rejected", loss.policy[1]),
    ]
}
