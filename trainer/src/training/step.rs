//! The forward and backward pass of one example.

use candle_core::{D, DType, Tensor, Var};
use stic_contract::recipe::{Dpo, RejectedTerm};

use crate::algorithm::losses::{LogProb, PairLogProbs, PairLoss, dpo};
use crate::error::Result;
use crate::model::language::{LanguageModel, Layout};
use crate::model::lora::{Adapted, DropoutKey, LoraAdapter};
use crate::model::{Gradients, Llava, Mode};

/// A prompt with its image, and the responses that follow it.
#[derive(Debug, Clone)]
pub struct Branches<'a> {
    /// The prompt's token ids.
    pub prompt: &'a [u32],
    /// The image's features, `[n, hidden]`, for the n image tokens of the prompt.
    pub features: Option<&'a Tensor>,
    /// The token ids of each response, at least one each.
    pub responses: &'a [&'a [u32]],
}

/// A conversation with its image, and which of its tokens are learned.
#[derive(Debug, Clone)]
pub struct Supervised<'a> {
    /// The token ids of the whole conversation.
    pub ids: &'a [u32],
    /// The image's features, `[n, hidden]`.
    pub features: Option<&'a Tensor>,
    /// For each token whether it is learned; the first token cannot be.
    pub learned: &'a [bool],
}

/// Tokens laid out for one pass, and where each learned token is predicted from.
struct Sequence {
    /// `[tokens, hidden]`.
    embeddings: Tensor,
    layout: Layout,
    /// The row that predicts each target.
    rows: Vec<u32>,
    targets: Vec<u32>,
    /// How many targets each response has.
    lengths: Vec<usize>,
}

impl Sequence {
    /// The prefix is computed once for all responses. A response's last token predicts nothing and is left out.
    fn of_branches(model: &Llava, branches: &Branches<'_>) -> Result<Self> {
        let fed: Vec<usize> = branches.responses.iter().map(|r| r.len() - 1).collect();
        let window = model.config().text.sliding_window;
        let layout = Layout::branching(branches.prompt.len(), &fed, window);
        let mut fed_ids = Vec::new();
        let mut rows = Vec::new();
        let mut targets = Vec::new();
        for (response, segment) in branches.responses.iter().zip(&layout.trees()[0].branches) {
            fed_ids.extend(&response[..segment.len]);
            rows.push(branches.prompt.len() as u32 - 1);
            rows.extend((segment.start..segment.start + segment.len).map(|row| row as u32));
            targets.extend(*response);
        }
        // A response is text whatever its ids are: only the prompt has a place for the image.
        let mut parts = vec![model.embed(branches.prompt, branches.features)?];
        if !fed_ids.is_empty() {
            parts.push(model.language.embed(&fed_ids)?);
        }
        Ok(Self {
            embeddings: Tensor::cat(&parts, 0)?,
            layout,
            rows,
            targets,
            lengths: branches.responses.iter().map(|r| r.len()).collect(),
        })
    }

    fn of_supervised(model: &Llava, example: &Supervised<'_>) -> Result<Self> {
        let learned: Vec<usize> = (1..example.ids.len()).filter(|i| example.learned[*i]).collect();
        let used = learned.last().map_or(0, |last| *last);
        let ids = &example.ids[..used.max(1)];
        Ok(Self {
            embeddings: model.embed(ids, example.features)?,
            layout: Layout::branching(ids.len(), &[], model.config().text.sliding_window),
            rows: learned.iter().map(|i| *i as u32 - 1).collect(),
            targets: learned.iter().map(|i| example.ids[*i]).collect(),
            lengths: vec![learned.len()],
        })
    }

    /// The log-probability of each target, `[targets]`, from hidden states `[tokens, hidden]`.
    fn values(&self, language: &LanguageModel, hidden: &Tensor, mode: Mode) -> Result<Tensor> {
        let rows = Tensor::new(self.rows.as_slice(), hidden.device())?;
        let logits = language.logits(&hidden.index_select(&rows, 0)?, mode)?;
        log_probs(&logits, &self.targets)
    }

    /// As [`Sequence::values`], with the tokens of response `noisy` replaced by the top logit of each row.
    fn values_with_noise(
        &self,
        language: &LanguageModel,
        hidden: &Tensor,
        mode: Mode,
        noisy: usize,
    ) -> Result<Tensor> {
        let rows = Tensor::new(self.rows.as_slice(), hidden.device())?;
        let logits = language.logits(&hidden.index_select(&rows, 0)?, mode)?;
        let start: usize = self.lengths[..noisy].iter().sum();
        let len = self.lengths[noisy];
        let clean = log_probs(&logits.narrow(0, 0, start)?, &self.targets[..start])?;
        let noise = top_logits(&logits.narrow(0, start, len)?, &self.targets[start..start + len])?;
        Ok(Tensor::cat(&[clean, noise], 0)?)
    }

    fn sums(&self, values: &[f32]) -> Vec<LogProb> {
        let mut start = 0;
        self.lengths
            .iter()
            .map(|len| {
                let sum = values[start..start + len].iter().map(|v| f64::from(*v)).sum();
                start += len;
                LogProb { sum, tokens: *len }
            })
            .collect()
    }
}

/// log p of each target, `[n]`, from logits `[n, vocab]` in f32.
fn log_probs(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    if targets.is_empty() {
        return Ok(Tensor::zeros(0, DType::F32, logits.device())?);
    }
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(&targets, 1)?.squeeze(1)?)
}

/// The released code's stand-in for log p of a rejected token: the top logit of its row, or the second where the
/// top is the token itself. `[n]`.
fn top_logits(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let mut chosen = Vec::with_capacity(targets.len());
    for (row, target) in logits.detach().to_vec2::<f32>()?.iter().zip(targets) {
        // The best of the others is the top where the top is another token, and the second where it is not.
        let (best, _) = row.iter().enumerate().filter(|(id, _)| *id != *target as usize).fold(
            (0, f32::NEG_INFINITY),
            |best, (id, value)| if *value > best.1 { (id, *value) } else { best },
        );
        chosen.push(best as u32);
    }
    let chosen = Tensor::new(chosen, logits.device())?.unsqueeze(1)?;
    Ok(logits.gather(&chosen, 1)?.squeeze(1)?)
}

/// The log-probability of every token of every response, under one policy.
///
/// # Errors
/// Those of the tensor library.
pub fn response_log_probs(
    model: &Llava,
    branches: &Branches<'_>,
    adapter: Option<Adapted<'_>>,
) -> Result<Vec<Vec<f32>>> {
    let sequence = Sequence::of_branches(model, branches)?;
    let (hidden, _) = model.language.forward_checkpointed(&sequence.embeddings, &sequence.layout, adapter)?;
    let values = sequence.values(&model.language, &hidden, Mode::Inference)?.to_vec1::<f32>()?;
    let mut rest = values.as_slice();
    Ok(sequence
        .lengths
        .iter()
        .map(|len| {
            let (own, others) = rest.split_at(*len);
            rest = others;
            own.to_vec()
        })
        .collect())
}

/// The policies of a preference step.
#[derive(Clone, Copy)]
pub struct Policies<'a> {
    /// The adapter that is trained.
    pub policy: &'a LoraAdapter,
    /// The reference's adapter; `None` is the base model.
    pub reference: Option<&'a LoraAdapter>,
}

/// One pair: its loss, and the gradients of `weight` times that loss.
///
/// `branches` holds the chosen response and then the rejected one. With `rejected_features` (POVID) the rejected
/// response is read under another image; then, and with dropout, nothing is shared between the two.
///
/// # Errors
/// Those of the tensor library.
pub fn preference_step(
    model: &Llava,
    branches: &Branches<'_>,
    rejected_features: Option<&Tensor>,
    policies: Policies<'_>,
    objective: &Dpo,
    weight: f64,
    dropout: Option<&DropoutKey>,
) -> Result<(PairLoss, PairLogProbs, Gradients)> {
    let noisy = objective.rejected_term == RejectedTerm::TopLogit;
    let parts: Vec<Branches<'_>> = if dropout.is_some() || rejected_features.is_some() {
        let [chosen, rejected] = [&branches.responses[..1], &branches.responses[1..]];
        vec![
            Branches { responses: chosen, ..branches.clone() },
            Branches {
                responses: rejected,
                features: rejected_features.or(branches.features),
                ..branches.clone()
            },
        ]
    } else {
        vec![branches.clone()]
    };
    let sequences: Vec<Sequence> =
        parts.iter().map(|part| Sequence::of_branches(model, part)).collect::<Result<_>>()?;
    let noisy_in =
        |part: usize| (noisy && part + 1 == sequences.len()).then(|| sequences[part].lengths.len() - 1);
    let values = |part: usize, hidden: &Tensor, mode: Mode| match noisy_in(part) {
        Some(response) => sequences[part].values_with_noise(&model.language, hidden, mode, response),
        None => sequences[part].values(&model.language, hidden, mode),
    };

    let mut reference = Vec::with_capacity(2);
    for (part, sequence) in sequences.iter().enumerate() {
        let (hidden, _) = model.language.forward_checkpointed(
            &sequence.embeddings,
            &sequence.layout,
            policies.reference.map(Adapted::from),
        )?;
        reference.extend(sequence.sums(&values(part, &hidden, Mode::Inference)?.to_vec1::<f32>()?));
    }

    let keys: Vec<Option<DropoutKey>> = (0..sequences.len())
        .map(|part| dropout.map(|key| DropoutKey { pass: format!("{} {part}", key.pass), ..key.clone() }))
        .collect();
    let adapted =
        |part: usize| Adapted { adapter: policies.policy, dropout: keys[part].as_ref(), merged: false };
    let mut passes = Vec::with_capacity(2);
    let mut sums = Vec::with_capacity(2);
    for (part, sequence) in sequences.iter().enumerate() {
        let (hidden, checkpoints) = model.language.forward_checkpointed(
            &sequence.embeddings,
            &sequence.layout,
            Some(adapted(part)),
        )?;
        let hidden = Var::from_tensor(&hidden)?;
        let found = values(part, hidden.as_tensor(), Mode::Training)?;
        sums.extend(sequence.sums(&found.to_vec1::<f32>()?));
        passes.push((hidden, checkpoints, found));
    }
    let policy = pair_of(&sums)?;
    let loss = dpo(policy, pair_of(&reference)?, objective);

    let mut gradients = Gradients::default();
    let mut slopes = [loss.d_chosen * weight, loss.d_rejected * weight].into_iter();
    for (part, ((hidden, checkpoints, found), sequence)) in passes.iter().zip(&sequences).enumerate() {
        let slopes: Vec<f32> = sequence
            .lengths
            .iter()
            .zip(&mut slopes)
            .flat_map(|(len, slope)| std::iter::repeat_n(slope as f32, *len))
            .collect();
        backward(model, hidden, checkpoints, found, slopes, adapted(part), &mut gradients)?;
    }
    Ok((loss, policy, gradients))
}

fn pair_of(sums: &[LogProb]) -> Result<PairLogProbs> {
    match sums {
        [chosen, rejected] => Ok(PairLogProbs { chosen: *chosen, rejected: *rejected }),
        _ => Err(candle_core::Error::Msg("a pair has two responses".into()).into()),
    }
}

/// One conversation: the sum of log p over its learned tokens, their number, and the gradients of `weight` times
/// minus that sum.
///
/// # Errors
/// Those of the tensor library.
pub fn supervised_step(
    model: &Llava,
    example: &Supervised<'_>,
    adapter: &LoraAdapter,
    weight: f64,
    dropout: Option<&DropoutKey>,
) -> Result<(LogProb, Gradients)> {
    let sequence = Sequence::of_supervised(model, example)?;
    let adapted = Adapted { adapter, dropout, merged: false };
    let (hidden, checkpoints) =
        model.language.forward_checkpointed(&sequence.embeddings, &sequence.layout, Some(adapted))?;
    let hidden = Var::from_tensor(&hidden)?;
    let found = sequence.values(&model.language, hidden.as_tensor(), Mode::Training)?;
    let sum = sequence.sums(&found.to_vec1::<f32>()?)[0];
    let slopes = vec![-weight as f32; sequence.targets.len()];
    let mut gradients = Gradients::default();
    backward(model, &hidden, &checkpoints, &found, slopes, adapted, &mut gradients)?;
    Ok((sum, gradients))
}

/// From d loss / d value of every target, through head and norm, through the layers.
fn backward(
    model: &Llava,
    hidden: &Var,
    checkpoints: &crate::model::language::Checkpoints,
    values: &Tensor,
    slopes: Vec<f32>,
    adapted: Adapted<'_>,
    gradients: &mut Gradients,
) -> Result<()> {
    let count = slopes.len();
    let slopes = Tensor::from_vec(slopes, count, values.device())?;
    let mut found = (values * slopes)?.sum_all()?.backward()?;
    let gradient = found
        .remove(hidden.as_tensor())
        .ok_or_else(|| candle_core::Error::Msg("the head passes no gradient on".into()))?;
    model.language.backward(checkpoints, &gradient, adapted, gradients)
}
