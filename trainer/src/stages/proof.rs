//! The proof after training: what was saved is what was trained, and it does something.

use serde::Serialize;
use stic_contract::recipe::Reference;

use super::examples::{Example, ExampleImages, Tokens};
use crate::error::{Error, Result};
use crate::model::Llava;
use crate::model::lora::{Adapted, LoraAdapter};
use crate::training::Branches;
use crate::training::step::response_log_probs;

/// How many examples are compared.
pub(super) const EXAMPLES: usize = 4;

/// The largest differences of a token's log-probability, in nats.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proof {
    /// The adapter in memory against the saved one, read again.
    pub reloaded: f32,
    /// The adapter against its merge into the base in f32.
    pub merged: f32,
    /// The adapter against the model the training started from.
    pub effect: f32,
    /// Tokens compared.
    pub tokens: usize,
}

/// A reloaded adapter is the same bytes and so the same numbers.
const RELOADED_MAX: f32 = 0.0;
/// A merge sums in another order.
const MERGED_MAX: f32 = 1e-2;

/// Compares on `examples`; `start` is the adapter the training began with, if it continued one.
pub(super) fn prove(
    model: &Llava,
    trained: &LoraAdapter,
    reloaded: &LoraAdapter,
    start: Option<&LoraAdapter>,
    examples: &[(&Example, ExampleImages)],
) -> Result<Proof> {
    let mut proof = Proof::default();
    for (example, images) in examples {
        let (prompt, responses) = split(&example.tokens);
        let responses: Vec<&[u32]> = responses.iter().map(Vec::as_slice).collect();
        let branches = Branches { prompt: &prompt, features: images.clean.as_ref(), responses: &responses };
        let values = |adapted: Option<Adapted<'_>>| -> Result<Vec<f32>> {
            Ok(response_log_probs(model, &branches, adapted)?.concat())
        };
        let found = values(Some(trained.into()))?;
        proof.reloaded = proof.reloaded.max(distance(&found, &values(Some(reloaded.into()))?));
        let merged = Adapted { merged: true, ..trained.into() };
        proof.merged = proof.merged.max(distance(&found, &values(Some(merged))?));
        proof.effect = proof.effect.max(distance(&found, &values(start.map(Into::into))?));
        proof.tokens += found.len();
    }
    if proof.reloaded > RELOADED_MAX || proof.reloaded.is_nan() {
        return Err(Error::Storage {
            path: crate::io::adapter::WEIGHTS_FILE.into(),
            source: std::io::Error::other(format!(
                "the saved adapter gives log-probabilities that are off by {} from those of the trained one",
                proof.reloaded
            )),
        });
    }
    if proof.merged > MERGED_MAX || proof.merged.is_nan() {
        return Err(candle_core::Error::Msg(format!(
            "the merged weights give log-probabilities that are off by {}",
            proof.merged
        ))
        .into());
    }
    if proof.effect == 0.0 {
        return Err(Error::Config(
            "training.optimizer.learningRate: the trained adapter changes no log-probability at all; raise the learning rate, or train more than the first step, whose rate is 0 with a warm-up".into(),
        ));
    }
    Ok(proof)
}

/// The first learned run of tokens and what stands before it.
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

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d.is_nan() { d } else { worst.max(d) })
}

/// The reference policy's adapter: none for the base, a frozen copy of what training starts from otherwise.
pub(super) fn reference_adapter(reference: Reference, start: Option<&LoraAdapter>) -> Option<&LoraAdapter> {
    match reference {
        Reference::Base => None,
        Reference::InitialAdapter => start,
    }
}
