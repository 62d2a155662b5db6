//! The forward and backward pass over a few examples.
//!
//! Results depend on the examples and the weights alone. How much is kept in memory changes no bit, and
//! batching an example with others changes its loss and gradient only by the order in which floats are added.

use candle_core::{DType, Tensor, Var};
use stic_contract::recipe::{Dpo, RejectedTerm};

use super::sequence::{Branches, Pair, Sequence, SupervisedExample};
use crate::algorithm::losses::dpo;
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
    Ok(sequence.split(&values.to_vec1()?).map(<[f32]>::to_vec).collect())
}

/// The sums of the chosen and the rejected log-probabilities of a pair, `[2]` in f64, under the reference policy: the base
/// model, or the base model with `adapter`. Whether the responses share their prompt changes how sums are rounded in bf16, so `shared` must be what it is
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
) -> Result<Tensor> {
    let sequence = Sequence::of_branches(model, &pair.trees(shared))?;
    sequence.sums(&infer(model, &sequence, adapter.map(ActiveAdapter::from), rejected, cancellation)?)
}

fn infer(
    model: &VisionLanguageModel,
    sequence: &Sequence,
    adapter: Option<ActiveAdapter<'_>>,
    rejected: RejectedTerm,
    cancellation: &CancellationToken,
) -> Result<Tensor> {
    let hidden = model.language.forward(&sequence.embeddings, &sequence.layout, adapter, cancellation)?;
    sequence.values(&model.language, &hidden, Mode::Inference, rejected)
}

/// Runs pairs, each with its sums of log-probabilities under the reference policy, `[2]`, as one sequence. Returns what
/// [`PairLoss::read`](crate::algorithm::losses::PairLoss::read) reads, still on the device, and adds the gradients of
/// `weight` times the sum of the losses to `gradients`.
///
/// With dropout the two responses do not share their prompt, because each has its own mask on it.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] once `limits.cancellation` is set; `gradients` are incomplete then.
pub fn preference_step(
    model: &VisionLanguageModel,
    pairs: &[(Pair<'_>, Tensor)],
    adapted: ActiveAdapter<'_>,
    objective: &Dpo,
    weight: f64,
    limits: PassLimits<'_>,
    gradients: &mut Gradients,
) -> Result<Tensor> {
    let trees: Vec<_> = pairs.iter().flat_map(|(pair, _)| pair.trees(adapted.dropout.is_none())).collect();
    let sequence = Sequence::of_branches(model, &trees)?;
    let references: Vec<&Tensor> = pairs.iter().map(|(_, reference)| reference).collect();
    let references = Tensor::stack(&references, 0)?;
    let (lengths, _) = sequence.lengths().as_chunks::<2>();
    let loss = |sums: Tensor| {
        let losses = dpo(&sums.reshape((pairs.len(), 2))?, &references, lengths, objective)?;
        Ok((losses.rows, (losses.slopes.flatten_all()? * weight)?))
    };
    forward_backward(model, &sequence, adapted, objective.rejected_term, loss, limits, gradients)
}

/// Runs conversations as one sequence. Returns the sum of log p over the learned tokens of each, `[examples]`, still on the
/// device, and adds the gradients of `-weight` times these sums to `gradients`.
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
) -> Result<Tensor> {
    let sequence = Sequence::of_supervised(model, examples)?;
    let loss = |sums: Tensor| {
        let slopes = (sums.ones_like()? * -weight)?;
        Ok((sums, slopes))
    };
    forward_backward(model, &sequence, adapted, RejectedTerm::LogProb, loss, limits, gradients)
}

/// One forward and one backward pass. `loss` turns the sums of the responses' log-probabilities into what is returned and
/// d loss / d sum of each.
fn forward_backward(
    model: &VisionLanguageModel,
    sequence: &Sequence,
    adapted: ActiveAdapter<'_>,
    rejected: RejectedTerm,
    loss: impl FnOnce(Tensor) -> Result<(Tensor, Tensor)>,
    limits: PassLimits<'_>,
    gradients: &mut Gradients,
) -> Result<Tensor> {
    let language = &model.language;
    let (hidden, checkpoints) =
        language.forward_checkpointed(&sequence.embeddings, &sequence.layout, adapted, limits)?;
    // The graph of the head, which holds the logits, is dropped before the backward pass through the layers.
    let (found, gradient) = {
        let hidden = Var::from_tensor(&hidden)?;
        let values = sequence.values(language, hidden.as_tensor(), Mode::Training, rejected)?;
        let (found, of_sums) = loss(sequence.sums(&values)?)?;
        let of_values = sequence.value_gradients(&of_sums)?;
        let mut gradients = (values * of_values)?.sum_all()?.backward()?;
        let gradient = gradients
            .remove(hidden.as_tensor())
            .ok_or_else(|| candle_core::Error::Msg("the head passes no gradient on".into()))?;
        (found, gradient)
    };
    language.backward(checkpoints, &gradient, adapted, gradients, limits.cancellation)?;
    Ok(found)
}
