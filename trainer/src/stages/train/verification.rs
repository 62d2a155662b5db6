//! Verification after training: the saved adapter equals the trained one, merges correctly, and has an effect.
//!
//! All passes are in f32 whatever the precision of the run, because bf16 would hide what is compared: it rounds each
//! activation by up to 2⁻⁹ of itself, which at the log-probabilities is as much as the effect of a short training.

use std::path::Path;

use serde::Serialize;

use super::examples::{Example, ExampleImages, ExamplePixels, Tokens};
use super::inputs::TrainingInputs;
use crate::checkpoint::adapter::{TrainedProjector, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::model::lora::{ActiveAdapter, LoraAdapter};
use crate::training::Branches;
use crate::training::step::response_log_probs_in_f32;

/// How many examples are compared.
const EXAMPLES: usize = 4;

/// The largest differences of a token's log-probability, in nats.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verification {
    /// Between the trained adapter and the saved one, loaded again.
    pub reloaded: f32,
    /// Between the adapter and its merge into the base in f32.
    pub merged: f32,
    /// Between the adapter and the policy that training started from.
    pub effect: f32,
    /// Tokens compared.
    pub tokens: usize,
}

/// A reloaded adapter has the same bytes and so the same log-probabilities.
const RELOADED_MAX: f32 = 0.0;
/// A merge sums in another order. In f32 (unit roundoff u = 2⁻²⁴) a sum of up to k = 16,384 products then differs by about
/// sqrt(k) u = 8e-6 of its size. Independent differences of 32 layers with 7 projections each add up to sqrt(224) times
/// that, 1.1e-4 of the logits, which are below 100.
const MERGED_MAX: f32 = 1e-2;

impl Verification {
    fn check(&self, dir: &Path) -> Result<()> {
        if self.reloaded > RELOADED_MAX || self.reloaded.is_nan() {
            let reason = format!(
                "after saving and loading, the adapter's log-probabilities differ by {} from those of the trained one",
                self.reloaded
            );
            return Err(Error::storage(dir.join(WEIGHTS_FILE))(std::io::Error::other(reason)));
        }
        if self.merged > MERGED_MAX || self.merged.is_nan() {
            let reason = format!(
                "log-probabilities under the merged weights differ by {} from the adapter's",
                self.merged
            );
            return Err(candle_core::Error::Msg(reason).into());
        }
        if self.effect == 0.0 {
            return Err(Error::Config(
                "training.optimizer.learningRate: the trained adapter changes no log-probability; raise the learning rate, or train for more than the first step, whose rate is 0 with a warm-up".into(),
            ));
        }
        Ok(())
    }
}

/// Compares the saved adapter in `dir` with the trained one on the first examples.
///
/// # Errors
/// [`Error::Storage`] if the saved adapter differs, [`Error::Tensor`] if the merge does, [`Error::Config`] if training
/// had no effect.
pub(super) fn verify(inputs: &TrainingInputs<'_>, trained: &LoraAdapter, dir: &Path) -> Result<Verification> {
    let reloaded = inputs.vlm.load_adapter(dir, TrainedProjector::Refuse)?;
    let mut verification = Verification::default();
    for (example, images) in compared_examples(inputs)? {
        let (prompt, responses) = split(&example.tokens);
        let responses: Vec<&[u32]> = responses.iter().map(Vec::as_slice).collect();
        let branches = Branches { prompt: &prompt, features: images.clean.as_ref(), responses: &responses };
        let log_probs = |adapted: Option<ActiveAdapter<'_>>| -> Result<Vec<f32>> {
            Ok(response_log_probs_in_f32(&inputs.vlm.model, &branches, adapted)?.concat())
        };
        let expected = log_probs(Some(trained.into()))?;
        let distance = |adapted| Ok::<_, Error>(largest_difference(&expected, &log_probs(adapted)?));
        let merged = ActiveAdapter { merged: true, ..trained.into() };
        verification.reloaded = larger(verification.reloaded, distance(Some((&reloaded).into()))?);
        verification.merged = larger(verification.merged, distance(Some(merged))?);
        verification.effect = larger(verification.effect, distance(inputs.initial_adapter.map(Into::into))?);
        verification.tokens += expected.len();
    }
    verification.check(dir)?;
    Ok(verification)
}

/// The first examples with their image features.
fn compared_examples<'a>(inputs: &TrainingInputs<'a>) -> Result<Vec<(&'a Example, ExampleImages)>> {
    let TrainingInputs { vlm, prepared, examples, recipe, seed, context, .. } = *inputs;
    let encode = |example: &'a Example| {
        let item = prepared.get(example.item)?;
        let pixels = ExamplePixels::read(vlm, prepared, &item, recipe, seed, 0)?;
        Ok((example, pixels.encode(vlm, &context.cancellation)?))
    };
    examples.iter().take(EXAMPLES).map(encode).collect()
}

/// The tokens before the first response, and the responses.
fn split(tokens: &Tokens) -> (Vec<u32>, Vec<Vec<u32>>) {
    match tokens {
        Tokens::Pair { prompt, chosen, rejected } => (prompt.clone(), vec![chosen.clone(), rejected.clone()]),
        Tokens::Conversation { ids, learned } => {
            let start = learned.iter().position(|l| *l).unwrap_or(ids.len());
            let len = learned[start..].iter().take_while(|l| **l).count();
            (ids[..start].to_vec(), vec![ids[start..start + len].to_vec()])
        }
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, larger)
}

/// NaN if either is, unlike [`f32::max`]: a difference that is no number must not pass.
const fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_is_not_a_number_is_never_overwritten_by_a_smaller_one() {
        assert_eq!(largest_difference(&[1.0, 2.0, 3.0], &[1.0, 0.5, 3.5]), 1.5);
        assert!(largest_difference(&[1.0, f32::NAN, 3.0], &[1.0, 0.5, 3.5]).is_nan());
        let failed = Verification { merged: f32::NAN, effect: 1.0, ..Verification::default() };
        assert!(matches!(failed.check(Path::new("adapter")), Err(Error::Tensor(_))));
    }
}
