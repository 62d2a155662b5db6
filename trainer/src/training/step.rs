//! The forward and backward pass over a few examples.
//!
//! Results depend on the examples and the weights alone. How much is kept in memory changes no bit, and
//! batching an example with others changes its loss and gradient only by the order in which floats are added.

use candle_core::{DType, Tensor, Var};
use stic_contract::recipe::{Dpo, RejectedTerm};

use super::sequence::{Branches, Pair, Sequence, SupervisedExample};
use crate::algorithm::losses::{LogProb, PairLogProbs, PairLoss, dpo};
use crate::cancellation::CancellationToken;
use crate::error::Result;
use crate::model::language::PassLimits;
use crate::model::lora::{ActiveAdapter, LoraAdapter};
use crate::model::{Gradients, Mode, VisionLanguageModel};

/// The log-probability of every token of every response, under one policy.
pub fn response_log_probs(
    model: &VisionLanguageModel,
    branches: &Branches<'_>,
    adapter: Option<ActiveAdapter<'_>>,
) -> Result<Vec<Vec<f32>>> {
    let sequence = Sequence::of_branches(model, std::slice::from_ref(branches))?;
    split_log_probs(model, &sequence, adapter)
}

/// As [`response_log_probs`], with activations in f32 whatever the type of the weights, which are widened one projection at
/// a time.
pub fn response_log_probs_in_f32(
    model: &VisionLanguageModel,
    branches: &Branches<'_>,
    adapter: Option<ActiveAdapter<'_>>,
) -> Result<Vec<Vec<f32>>> {
    let mut sequence = Sequence::of_branches(model, std::slice::from_ref(branches))?;
    sequence.embeddings = sequence.embeddings.to_dtype(DType::F32)?;
    split_log_probs(model, &sequence, adapter)
}

fn split_log_probs(
    model: &VisionLanguageModel,
    sequence: &Sequence,
    adapter: Option<ActiveAdapter<'_>>,
) -> Result<Vec<Vec<f32>>> {
    let values = infer(model, sequence, adapter, RejectedTerm::LogProb, &CancellationToken::default())?;
    Ok(sequence.split(&values).map(<[f32]>::to_vec).collect())
}

/// The log-probabilities of a pair under the reference policy: the base model, or the base model with
/// `adapter`. Whether the responses share their prompt changes how sums are rounded in bf16, so `shared` must be what it is
/// for the policy.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] once `cancellation` is set.
pub fn reference_log_probs(
    model: &VisionLanguageModel,
    pair: &Pair<'_>,
    adapter: Option<&LoraAdapter>,
    rejected: RejectedTerm,
    shared: bool,
    cancellation: &CancellationToken,
) -> Result<PairLogProbs> {
    let sequence = Sequence::of_branches(model, &pair.trees(shared))?;
    let values = infer(model, &sequence, adapter.map(ActiveAdapter::from), rejected, cancellation)?;
    match sequence.sums(&values)[..] {
        [chosen, rejected] => Ok(PairLogProbs { chosen, rejected }),
        _ => Err(candle_core::Error::Msg("a pair has two responses".into()).into()),
    }
}

fn infer(
    model: &VisionLanguageModel,
    sequence: &Sequence,
    adapter: Option<ActiveAdapter<'_>>,
    rejected: RejectedTerm,
    cancellation: &CancellationToken,
) -> Result<Vec<f32>> {
    let hidden = model.language.forward(&sequence.embeddings, &sequence.layout, adapter, cancellation)?;
    Ok(sequence.values(&model.language, &hidden, Mode::Inference, rejected)?.to_vec1()?)
}

/// Runs pairs, each with its log-probabilities under the reference policy, as one sequence. Returns the loss
/// of each and its log-probabilities under the policy, and adds the gradients of `weight` times the sum of
/// the losses to `gradients`.
///
/// With dropout the two responses do not share their prompt, because each has its own mask on it.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] once `limits.cancellation` is set; `gradients` are incomplete then.
pub fn preference_step(
    model: &VisionLanguageModel,
    pairs: &[(Pair<'_>, PairLogProbs)],
    adapted: ActiveAdapter<'_>,
    objective: &Dpo,
    weight: f64,
    limits: PassLimits<'_>,
    gradients: &mut Gradients,
) -> Result<Vec<(PairLoss, PairLogProbs)>> {
    let trees: Vec<_> = pairs.iter().flat_map(|(pair, _)| pair.trees(adapted.dropout.is_none())).collect();
    let sequence = Sequence::of_branches(model, &trees)?;
    let mut losses = Vec::with_capacity(pairs.len());
    let sum_gradients = |sums: &[LogProb]| -> Vec<f64> {
        let (policies, _) = sums.as_chunks::<2>();
        losses.extend(policies.iter().zip(pairs).map(|([chosen, rejected], (_, reference))| {
            let policy = PairLogProbs { chosen: *chosen, rejected: *rejected };
            (dpo(policy, *reference, objective), policy)
        }));
        losses.iter().flat_map(|(loss, _)| [loss.d_chosen * weight, loss.d_rejected * weight]).collect()
    };
    forward_backward(model, &sequence, adapted, objective.rejected_term, sum_gradients, limits, gradients)?;
    Ok(losses)
}

/// Runs conversations as one sequence. Returns the sum of log p over the learned tokens of each, and adds the
/// gradients of `-weight` times these sums to `gradients`.
///
/// # Errors
/// As [`preference_step`].
pub fn supervised_step(
    model: &VisionLanguageModel,
    examples: &[SupervisedExample<'_>],
    adapted: ActiveAdapter<'_>,
    weight: f64,
    limits: PassLimits<'_>,
    gradients: &mut Gradients,
) -> Result<Vec<LogProb>> {
    let sequence = Sequence::of_supervised(model, examples)?;
    let mut found = Vec::new();
    let sum_gradients = |sums: &[LogProb]| {
        found = sums.to_vec();
        vec![-weight; sums.len()]
    };
    forward_backward(model, &sequence, adapted, RejectedTerm::LogProb, sum_gradients, limits, gradients)?;
    Ok(found)
}

/// One forward and one backward pass. `sum_gradients` turns the log-probabilities of the responses into d
/// loss / d sum of each.
fn forward_backward(
    model: &VisionLanguageModel,
    sequence: &Sequence,
    adapted: ActiveAdapter<'_>,
    rejected: RejectedTerm,
    sum_gradients: impl FnOnce(&[LogProb]) -> Vec<f64>,
    limits: PassLimits<'_>,
    gradients: &mut Gradients,
) -> Result<()> {
    let language = &model.language;
    let (hidden, checkpoints) =
        language.forward_checkpointed(&sequence.embeddings, &sequence.layout, adapted, limits)?;
    // The graph of the head, which holds the logits, is dropped before the backward pass through the layers.
    let gradient = {
        let hidden = Var::from_tensor(&hidden)?;
        let values = sequence.values(language, hidden.as_tensor(), Mode::Training, rejected)?;
        let of_sums = sum_gradients(&sequence.sums(&values.to_vec1::<f32>()?));
        let of_values = Tensor::new(sequence.value_gradients(&of_sums), values.device())?;
        let mut found = (values * of_values)?.sum_all()?.backward()?;
        found
            .remove(hidden.as_tensor())
            .ok_or_else(|| candle_core::Error::Msg("the head passes no gradient on".into()))?
    };
    language.backward(checkpoints, &gradient, adapted, gradients, limits.cancellation)
}
