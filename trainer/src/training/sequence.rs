//! Examples packed into the one sequence of a pass, and the log-probabilities read from it.

use candle_core::{DType, Tensor};
use stic_contract::recipe::RejectedTerm;

use crate::error::Result;
use crate::model::language::{LanguageModel, Layout};
use crate::model::{Mode, VisionLanguageModel};

/// A prompt with its image, and the responses that follow it.
#[derive(Debug, Clone)]
pub struct Branches<'a> {
    /// Token ids, those of the image included.
    pub prompt: &'a [u32],
    /// `[n, hidden]`, for the n image tokens of the prompt.
    pub features: Option<&'a Tensor>,
    /// Token ids, at least one for each response.
    pub responses: &'a [&'a [u32]],
}

/// A preference between two responses to a prompt.
#[derive(Debug, Clone)]
pub struct Pair<'a> {
    /// Token ids, those of the image included.
    pub prompt: &'a [u32],
    /// `[n, hidden]`, for the n image tokens of the prompt.
    pub features: Option<&'a Tensor>,
    /// POVID's: features that replace those of the image for the rejected response.
    pub rejected_features: Option<&'a Tensor>,
    /// Token ids of the chosen and the rejected response, at least one each.
    pub responses: [&'a [u32]; 2],
}

impl Pair<'_> {
    /// One tree where both responses may share the prompt, otherwise one for each response.
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
pub struct SupervisedExample<'a> {
    /// Token ids of the whole conversation.
    pub ids: &'a [u32],
    /// `[n, hidden]`, for the n image tokens.
    pub features: Option<&'a Tensor>,
    /// Whether each token is learned; the first cannot be.
    pub learned: &'a [bool],
}

/// The packed tokens of a pass, and the row that predicts each learned token.
pub(super) struct Sequence {
    /// `[tokens, hidden]`.
    pub(super) embeddings: Tensor,
    pub(super) layout: Layout,
    /// The row that predicts each target.
    rows: Vec<u32>,
    targets: Vec<u32>,
    /// The number of targets of each response.
    lengths: Vec<usize>,
}

impl Sequence {
    /// A prompt is computed once for all of its responses. The last token of a response predicts nothing and
    /// is left out.
    pub(super) fn of_branches(model: &VisionLanguageModel, trees: &[Branches<'_>]) -> Result<Self> {
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
    pub(super) fn of_supervised(
        model: &VisionLanguageModel,
        examples: &[SupervisedExample<'_>],
    ) -> Result<Self> {
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

    /// The log-probability of each target, `[targets]`, from hidden states `[tokens, hidden]`. In preference
    /// training every second response is a rejected one; `rejected` says what replaces its log-probabilities.
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
                let other = best_other_tokens(&language.logits(&hidden, mode)?, targets)?;
                language.log_probs(&hidden, &other)?
            });
            start += len;
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Splits values by response.
    pub(super) fn split<'v>(&self, values: &'v [f32]) -> impl Iterator<Item = &'v [f32]> {
        let mut rest = values;
        self.lengths.iter().map(move |len| {
            let (own, others) = rest.split_at(*len);
            rest = others;
            own
        })
    }

    /// The sum of the values of each response, `[responses]` in f64.
    pub(super) fn sums(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.detach().to_dtype(DType::F64)?;
        let mut start = 0;
        let sums = self.lengths.iter().map(|len| {
            let own = values.narrow(0, start, *len)?;
            start += len;
            own.sum_all()
        });
        Ok(Tensor::stack(&sums.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
    }

    /// The backward pass of [`Sequence::sums`]: the gradient of each response's sum, `[responses]`, to the gradient of
    /// each value, in f32.
    pub(super) fn value_gradients(&self, of_sums: &Tensor) -> Result<Tensor> {
        let response_of_value =
            self.lengths.iter().zip(0u32..).flat_map(|(len, response)| std::iter::repeat_n(response, *len));
        let response_of_value: Vec<u32> = response_of_value.collect();
        let ids = Tensor::new(response_of_value, of_sums.device())?;
        Ok(of_sums.to_dtype(DType::F32)?.index_select(&ids, 0)?)
    }

    /// The number of values of each response.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }
}

/// The token whose log-probability the released code uses instead of a rejected token's: that of the largest logit of its
/// row, or of the second largest where the largest is the token's own.
fn best_other_tokens(logits: &Tensor, targets: &[u32]) -> Result<Vec<u32>> {
    let rows = logits.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let best = rows.iter().zip(targets).map(|(row, target)| {
        // Both are the largest logit of another token.
        let others = row.iter().enumerate().filter(|(id, _)| *id != *target as usize);
        let (best, _) =
            others.fold(
                (0, f32::NEG_INFINITY),
                |best, (id, value)| {
                    if *value > best.1 { (id, *value) } else { best }
                },
            );
        best as u32
    });
    Ok(best.collect())
}
