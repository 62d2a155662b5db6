//! From logits to a token: greedy, or temperature, then top-k, then top-p, as transformers orders them.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Distribution};
use stic_contract::recipe::Sampling;

use super::draw::Draw;
use crate::error::{Error, Result};

/// The version of the sampler, for the keys of artifacts. It must change whenever the same seed samples other
/// tokens.
pub const SAMPLER: &str = "candle-0.11";

/// How far a token may be below the most likely one, in scaled logits. All tokens beyond it have less than
/// 2⁻²⁴ of the probability together, which is less than one step of the f32 that picks the token.
const NEGLIGIBLE: f64 = 30.0;

/// Samples the tokens of one response. They depend on the draw and the logits, and on nothing that other
/// responses do.
pub struct Sampler {
    sampling: Sampling,
    /// `None` is greedy.
    processor: Option<LogitsProcessor>,
}

impl Sampler {
    /// Takes the seed from `draw`.
    #[must_use]
    pub fn new(sampling: Sampling, mut draw: Draw) -> Self {
        let temperature = sampling.temperature;
        let processor = (temperature > 0.0)
            .then(|| LogitsProcessor::from_sampling(draw.seed(), Distribution::All { temperature }));
        Self { sampling, processor }
    }

    /// The next token from `logits` `[vocab]`; at temperature 0 the most likely one, the first of equals.
    ///
    /// # Errors
    /// [`Error::Config`] where a likely token's logit is not finite.
    pub fn next_token(&mut self, logits: &[f32]) -> Result<u32> {
        let Some(processor) = &mut self.processor else { return Ok(argmax(logits)) };
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let ids = candidates(logits, temperature, top_k as usize);
        let scores: Vec<f32> = ids.iter().map(|id| logits[*id as usize]).collect();
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::Config(
                "the model's logits are not finite, so no token can be sampled; check the checkpoint and the adapter, \
                 or use precision F32"
                    .into(),
            ));
        }
        let scores = Tensor::from_vec(scores, ids.len(), &Device::Cpu)?;
        let picked = processor.sample_f(&scores, |probabilities| {
            if top_p < 1.0 {
                keep_nucleus(probabilities, top_p);
            }
        })?;
        Ok(ids[picked as usize])
    }
}

/// The tokens that can be picked, in ascending order: of the likely ones the `top_k` most likely, or all for
/// 0. Few tokens are likely, and a softmax over the whole vocabulary costs several times as much as this.
fn candidates(logits: &[f32], temperature: f64, top_k: usize) -> Vec<u32> {
    let least = (f64::from(largest(logits)) - NEGLIGIBLE * temperature) as f32;
    // NaN stays in, so that it is an error.
    let likely = (0..).zip(logits).filter(|(_, logit)| **logit >= least || logit.is_nan());
    if top_k == 0 {
        return likely.map(|(id, _)| id).collect();
    }
    let mut ranks: Vec<u64> = likely.map(|(id, logit)| rank(id, *logit)).collect();
    if top_k < ranks.len() {
        ranks.select_nth_unstable(top_k);
        ranks.truncate(top_k);
    }
    let mut ids: Vec<u32> = ranks.into_iter().map(|rank| rank as u32).collect();
    ids.sort_unstable();
    ids
}

/// Sets all probabilities to zero but the smallest set that reaches `top_p`, which is never empty. candle's
/// own top-p sorts the whole vocabulary for each token.
fn keep_nucleus(probabilities: &mut [f32], top_p: f64) {
    let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
    // All tokens below this together have less than 1 - top_p, so none of them is in the set.
    let least = ((1.0 - top_p) * total / probabilities.len() as f64) as f32;
    let mut ranks: Vec<u64> =
        (0..).zip(&*probabilities).filter(|(_, p)| **p >= least).map(|(index, p)| rank(index, *p)).collect();
    ranks.sort_unstable();
    let mut sum = 0.0;
    let last = ranks.into_iter().find(|rank| {
        sum += f64::from(probabilities[*rank as u32 as usize]);
        sum >= top_p * total
    });
    let Some(last) = last else { return };
    for (index, p) in (0..).zip(probabilities) {
        if rank(index, *p) > last {
            *p = 0.0;
        }
    }
}

/// Ascending by this is descending by value, then ascending by index. One integer sorts several times faster
/// than two values that are compared one after the other.
const fn rank(index: u32, value: f32) -> u64 {
    let bits = value.to_bits();
    // The order of `f32::total_cmp`.
    let ascending = if value.is_sign_negative() { !bits } else { bits | 1 << 31 };
    (!ascending as u64) << 32 | index as u64
}

/// The index of the largest value, the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let largest = largest(values);
    values.iter().position(|value| *value == largest).unwrap_or(0) as u32
}

/// The largest value. It vectorizes; a fold over one value after another is ten times slower.
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn sampling(temperature: f64, top_p: f64, top_k: u32) -> Sampling {
        Sampling { temperature, top_p, top_k, max_new_tokens: 1 }
    }

    fn tokens(logits: &[f32], sampling: Sampling, count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, Draw::new(7, "item", "sampling"));
        (0..count).map(|_| sampler.next_token(logits).unwrap()).collect()
    }

    /// transformers' warpers in f64: the probability of every token.
    fn definition(logits: &[f32], sampling: Sampling) -> Vec<f64> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k as usize);
        }
        let weight = |id: usize| (f64::from(logits[id] - logits[order[0]]) / sampling.temperature).exp();
        let total: f64 = order.iter().map(|id| weight(*id)).sum();
        let mut sum = 0.0;
        let nucleus: Vec<usize> = order
            .iter()
            .copied()
            .take_while(|id| {
                let kept = sum < sampling.top_p * total;
                sum += weight(*id);
                kept
            })
            .collect();
        let total: f64 = nucleus.iter().map(|id| weight(*id)).sum();
        let mut probabilities = vec![0.0; logits.len()];
        nucleus.into_iter().for_each(|id| probabilities[id] = weight(id) / total);
        probabilities
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(tokens(&LOGITS, sampling(0.0, 1.0, 0), 3), [1, 1, 1]);
    }

    /// Artifacts are named by what decides their bytes. Where these tokens change (with an update of
    /// candle-transformers or rand, say), `SAMPLER` must change too.
    #[test]
    fn a_seed_draws_the_recorded_tokens() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
        assert_eq!(tokens(&logits, sampling(0.7, 1.0, 0), 8), [29, 92, 3, 30, 2, 65, 38, 83]);
        assert_eq!(tokens(&logits, sampling(1.3, 0.9, 20), 8), [21, 92, 3, 29, 2, 48, 30, 74]);
    }

    #[test]
    fn frequencies_follow_the_definition() {
        let logits: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let count = 40_000;
        for sampling in [
            sampling(0.7, 1.0, 0),
            sampling(1.0, 0.8, 0),
            sampling(1.0, 1.0, 5),
            // The mass of top-k is renormalized before top-p.
            sampling(2.0, 0.6, 5),
            sampling(1.0, 1e-9, 0),
        ] {
            let mut counts = vec![0_u32; logits.len()];
            tokens(&logits, sampling, count).into_iter().for_each(|token| counts[token as usize] += 1);
            for (id, expected) in definition(&logits, sampling).into_iter().enumerate() {
                let found = f64::from(counts[id]) / count as f64;
                let error = (expected * (1.0 - expected) / count as f64).sqrt();
                assert!((found - expected).abs() <= 4.5 * error, "{sampling:?}: {id}: {found} {expected}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn only_tokens_of_the_definition_are_drawn(
            logits in vec(prop_oneof![-60f32..60.0, -1f32..1.0, Just(0.5)], 1..200),
            temperature in prop_oneof![Just(0.2), Just(1.0), 0.01..3.0],
            top_p in prop_oneof![Just(1.0), 0.01..0.999],
            top_k in prop_oneof![Just(0_u32), 1..250_u32],
        ) {
            // Rounding may move the token at which the probability is reached.
            let allowed = definition(&logits, sampling(temperature, (top_p + 1e-5_f64).min(1.0), top_k));
            let least = (0..logits.len())
                .filter(|id| allowed[*id] > 0.0)
                .map(|id| logits[id])
                .fold(f32::INFINITY, f32::min);
            for token in tokens(&logits, sampling(temperature, top_p, top_k), 8) {
                prop_assert!(logits[token as usize] >= least - 1e-4, "{token}");
            }
        }

        #[test]
        fn what_is_left_out_is_less_likely_than_one_step_of_the_draw(
            logits in vec(-60f32..60.0, 1..2000), temperature in prop_oneof![Just(0.2), 0.01..3.0]
        ) {
            let all = definition(&logits, sampling(temperature, 1.0, 0));
            let kept: f64 = candidates(&logits, temperature, 0).iter().map(|id| all[*id as usize]).sum();
            prop_assert!(1.0 - kept < 2f64.powi(-24), "{kept}");
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for broken in [f32::NAN, f32::INFINITY] {
            for logits in [vec![1.0, broken, 3.0], vec![broken; 20]] {
                let mut sampler = Sampler::new(sampling(0.7, 0.9, 0), Draw::new(7, "item", "sampling"));
                let error = sampler.next_token(&logits).unwrap_err().to_string();
                assert!(error.contains("logits are not finite"), "{broken}: {error}");
            }
        }
    }
}
