//! The forward and backward pass of a few examples at once.
//!
//! Everything is a function of the examples and the weights: how much is kept in memory changes no bit, and an example
//! has the loss and the gradient that it has by itself, but for the order in which floats are added.

use candle_core::{Tensor, Var};
use stic_contract::recipe::{Dpo, RejectedTerm};

use super::sequence::{Branches, Pair, Sequence, Supervised};
use crate::algorithm::losses::{LogProb, PairLogProbs, PairLoss, dpo};
use crate::error::Result;
use crate::io::stop::Stop;
use crate::model::language::Limits;
use crate::model::lora::{Adapted, LoraAdapter};
use crate::model::{Gradients, Llava, Mode};

/// The log-probability of every token of every response, under one policy.
///
/// # Errors
/// Those of the tensor library.
pub fn response_log_probs(
    model: &Llava,
    branches: &Branches<'_>,
    adapter: Option<Adapted<'_>>,
) -> Result<Vec<Vec<f32>>> {
    let sequence = Sequence::of_branches(model, std::slice::from_ref(branches))?;
    let values = infer(model, &sequence, adapter, RejectedTerm::LogProb, &Stop::default())?;
    Ok(sequence.split(&values).map(<[f32]>::to_vec).collect())
}

/// What the reference policy makes of a pair; no `adapter` is the base model.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] once `stop` is asked; those of the tensor library.
pub fn reference_log_probs(
    model: &Llava,
    pair: &Pair<'_>,
    adapter: Option<&LoraAdapter>,
    rejected: RejectedTerm,
    stop: &Stop,
) -> Result<PairLogProbs> {
    let sequence = Sequence::of_branches(model, &pair.trees(true))?;
    let values = infer(model, &sequence, adapter.map(Adapted::from), rejected, stop)?;
    match sequence.sums(&values)[..] {
        [chosen, rejected] => Ok(PairLogProbs { chosen, rejected }),
        _ => Err(candle_core::Error::Msg("a pair has two responses".into()).into()),
    }
}

fn infer(
    model: &Llava,
    sequence: &Sequence,
    adapter: Option<Adapted<'_>>,
    rejected: RejectedTerm,
    stop: &Stop,
) -> Result<Vec<f32>> {
    let hidden = model.language.forward(&sequence.embeddings, &sequence.layout, adapter, stop)?;
    Ok(sequence.values(&model.language, &hidden, Mode::Inference, rejected)?.to_vec1()?)
}

/// Pairs, each with what the reference policy makes of it, as one sequence: the loss of each and the policy's
/// log-probabilities. Adds the gradients of `weight` times the sum of the losses to `gradients`.
///
/// Under dropout nothing is shared between the two responses: each has a mask of its own on the prompt.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] once it is asked to stop, with `gradients` of no use; those of the tensor
/// library.
pub fn preference_step(
    model: &Llava,
    pairs: &[(Pair<'_>, PairLogProbs)],
    adapted: Adapted<'_>,
    objective: &Dpo,
    weight: f64,
    limits: Limits<'_>,
    gradients: &mut Gradients,
) -> Result<Vec<(PairLoss, PairLogProbs)>> {
    let trees: Vec<_> = pairs.iter().flat_map(|(pair, _)| pair.trees(adapted.dropout.is_none())).collect();
    let sequence = Sequence::of_branches(model, &trees)?;
    let mut losses = Vec::with_capacity(pairs.len());
    let slopes = |sums: &[LogProb]| -> Vec<f64> {
        let (policies, _) = sums.as_chunks::<2>();
        losses.extend(policies.iter().zip(pairs).map(|([chosen, rejected], (_, reference))| {
            let policy = PairLogProbs { chosen: *chosen, rejected: *rejected };
            (dpo(policy, *reference, objective), policy)
        }));
        losses.iter().flat_map(|(loss, _)| [loss.d_chosen * weight, loss.d_rejected * weight]).collect()
    };
    learn(model, &sequence, adapted, objective.rejected_term, slopes, limits, gradients)?;
    Ok(losses)
}

/// Conversations as one sequence: of each the sum of log p over its learned tokens, and their number. Adds the
/// gradients of `weight` times minus those sums to `gradients`.
///
/// # Errors
/// As [`preference_step`].
pub fn supervised_step(
    model: &Llava,
    examples: &[Supervised<'_>],
    adapted: Adapted<'_>,
    weight: f64,
    limits: Limits<'_>,
    gradients: &mut Gradients,
) -> Result<Vec<LogProb>> {
    let sequence = Sequence::of_supervised(model, examples)?;
    let mut found = Vec::new();
    let slopes = |sums: &[LogProb]| {
        found = sums.to_vec();
        vec![-weight; sums.len()]
    };
    learn(model, &sequence, adapted, RejectedTerm::LogProb, slopes, limits, gradients)?;
    Ok(found)
}

/// One pass forward and one back. `slopes` turns the log-probabilities of the responses into d loss / d each sum.
fn learn(
    model: &Llava,
    sequence: &Sequence,
    adapted: Adapted<'_>,
    rejected: RejectedTerm,
    slopes: impl FnOnce(&[LogProb]) -> Vec<f64>,
    limits: Limits<'_>,
    gradients: &mut Gradients,
) -> Result<()> {
    let language = &model.language;
    let (hidden, checkpoints) =
        language.forward_checkpointed(&sequence.embeddings, &sequence.layout, adapted, limits)?;
    // The head's graph, with the logits in it, is gone before the layers are gone through.
    let gradient = {
        let hidden = Var::from_tensor(&hidden)?;
        let values = sequence.values(language, hidden.as_tensor(), Mode::Training, rejected)?;
        let slopes = sequence.slopes(&slopes(&sequence.sums(&values.to_vec1::<f32>()?)));
        let slopes = Tensor::new(slopes, values.device())?;
        let mut found = (values * slopes)?.sum_all()?.backward()?;
        found
            .remove(hidden.as_tensor())
            .ok_or_else(|| candle_core::Error::Msg("the head passes no gradient on".into()))?
    };
    language.backward(checkpoints, &gradient, adapted, gradients, limits.stop)
}
