//! Examples laid out as the one sequence of a pass, and the log-probabilities read from it.

use candle_core::Tensor;
use stic_contract::recipe::RejectedTerm;

use crate::algorithm::losses::LogProb;
use crate::error::Result;
use crate::model::language::{LanguageModel, Layout};
use crate::model::{Llava, Mode};

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

/// A preference between two responses to a prompt.
#[derive(Debug, Clone)]
pub struct Pair<'a> {
    /// The prompt's token ids.
    pub prompt: &'a [u32],
    /// The image's features, `[n, hidden]`, for the n image tokens of the prompt.
    pub features: Option<&'a Tensor>,
    /// POVID's: the features that the rejected response is read under instead.
    pub rejected_features: Option<&'a Tensor>,
    /// The token ids of the chosen response and of the rejected one, at least one each.
    pub responses: [&'a [u32]; 2],
}

impl Pair<'_> {
    /// One tree where both responses can follow the same prompt, one for each response otherwise.
    pub(super) fn trees(&self, shared: bool) -> Vec<Branches<'_>> {
        let Self { prompt, features, rejected_features, responses } = self;
        let tree = |features, responses| Branches { prompt, features, responses };
        if shared && rejected_features.is_none() {
            return vec![tree(*features, responses)];
        }
        vec![tree(*features, &responses[..1]), tree(rejected_features.or(*features), &responses[1..])]
    }
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
pub(super) struct Sequence {
    /// `[tokens, hidden]`.
    pub(super) embeddings: Tensor,
    pub(super) layout: Layout,
    /// The row that predicts each target.
    rows: Vec<u32>,
    targets: Vec<u32>,
    /// How many targets each response has.
    lengths: Vec<usize>,
}

impl Sequence {
    /// A prompt is computed once for its responses. A response's last token predicts nothing and is left out.
    pub(super) fn of_branches(model: &Llava, trees: &[Branches<'_>]) -> Result<Self> {
        let lengths = trees.iter().map(|tree| {
            (tree.prompt.len(), tree.responses.iter().map(|response| response.len() - 1).collect::<Vec<_>>())
        });
        let layout = Layout::packed(lengths, model.config().text.sliding_window);
        let mut parts = Vec::new();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (tree, placed) in trees.iter().zip(layout.trees()) {
            let mut fed = Vec::new();
            for (response, segment) in tree.responses.iter().zip(&placed.branches) {
                fed.extend(&response[..segment.len]);
                rows.push((placed.prefix.start + placed.prefix.len - 1) as u32);
                rows.extend((segment.start..segment.start + segment.len).map(|row| row as u32));
                targets.extend(*response);
            }
            // A response is text whatever its ids are: only the prompt has a place for the image.
            parts.push(model.embed(tree.prompt, tree.features)?);
            if !fed.is_empty() {
                parts.push(model.language.embed(&fed)?);
            }
        }
        Ok(Self {
            embeddings: Tensor::cat(&parts, 0)?,
            rows,
            targets,
            lengths: trees.iter().flat_map(|tree| tree.responses).map(|response| response.len()).collect(),
            layout,
        })
    }

    /// Each conversation up to its last learned token.
    pub(super) fn of_supervised(model: &Llava, examples: &[Supervised<'_>]) -> Result<Self> {
        let learned: Vec<Vec<usize>> = examples
            .iter()
            .map(|example| (1..example.ids.len()).filter(|i| example.learned[*i]).collect())
            .collect();
        let used = |learned: &Vec<usize>| learned.last().map_or(1, |last| *last);
        let lengths = learned.iter().map(|learned| (used(learned), [0usize; 0]));
        let layout = Layout::packed(lengths, model.config().text.sliding_window);
        let mut parts = Vec::new();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for ((example, learned), placed) in examples.iter().zip(&learned).zip(layout.trees()) {
            parts.push(model.embed(&example.ids[..placed.prefix.len], example.features)?);
            rows.extend(learned.iter().map(|i| (placed.prefix.start + i - 1) as u32));
            targets.extend(learned.iter().map(|i| example.ids[*i]));
        }
        Ok(Self {
            embeddings: Tensor::cat(&parts, 0)?,
            rows,
            targets,
            lengths: learned.iter().map(Vec::len).collect(),
            layout,
        })
    }

    /// The log-probability of each target, `[targets]`, from hidden states `[tokens, hidden]`. Where responses are
    /// pairs, `rejected` says what stands for it in every second one.
    pub(super) fn values(
        &self,
        language: &LanguageModel,
        hidden: &Tensor,
        mode: Mode,
        rejected: RejectedTerm,
    ) -> Result<Tensor> {
        let rows = Tensor::new(self.rows.as_slice(), hidden.device())?;
        let hidden = hidden.index_select(&rows, 0)?;
        if rejected == RejectedTerm::LogProb {
            return language.log_probs(&hidden, &self.targets);
        }
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.lengths.len());
        for (response, len) in self.lengths.iter().enumerate() {
            let (hidden, targets) = (hidden.narrow(0, start, *len)?, &self.targets[start..start + len]);
            parts.push(if response % 2 == 0 {
                language.log_probs(&hidden, targets)?
            } else {
                top_logits(&language.logits(&hidden, mode)?, targets)?
            });
            start += len;
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// The values of each response.
    pub(super) fn split<'v>(&self, values: &'v [f32]) -> impl Iterator<Item = &'v [f32]> {
        let mut rest = values;
        self.lengths.iter().map(move |len| {
            let (own, others) = rest.split_at(*len);
            rest = others;
            own
        })
    }

    /// The sum over the values of each response.
    pub(super) fn sums(&self, values: &[f32]) -> Vec<LogProb> {
        self.split(values)
            .map(|own| LogProb { sum: own.iter().map(|v| f64::from(*v)).sum(), tokens: own.len() })
            .collect()
    }

    /// A slope of each response's sum to the slope of each value: the other way round than [`Sequence::sums`].
    pub(super) fn slopes(&self, of_sums: &[f64]) -> Vec<f32> {
        self.lengths
            .iter()
            .zip(of_sums)
            .flat_map(|(len, slope)| std::iter::repeat_n(*slope as f32, *len))
            .collect()
    }
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
