//! From logits to a token: temperature, top-k, top-p, greedy.

use stic_contract::recipe::Sampling;

use super::draw::Draw;

/// A token this far below the best one, in scaled logits, has less than 2^-53 of its probability: added in f64 to a sum
/// that holds the best one's, it changes nothing. (53 ln 2 is 36.74.)
const NEGLIGIBLE: f64 = 37.0;

/// The next token from `logits` `[vocab]`. Greedy at temperature 0, the first of equals; otherwise temperature,
/// then top-k, then top-p, as transformers orders them, and one uniform number of `draw`: in the order of falling
/// probability, the token at which the sum of probabilities passes that number.
#[must_use]
pub fn next_token(logits: &[f32], sampling: &Sampling, draw: &mut Draw) -> u32 {
    if sampling.temperature <= 0.0 {
        return argmax(logits);
    }
    token_at(logits, sampling, draw.uniform())
}

/// The token that `number` in [0, 1) picks.
fn token_at(logits: &[f32], sampling: &Sampling, number: f64) -> u32 {
    let picked = |least| pick(logits, least, sampling, number);
    // Few tokens are likely, and to sort a whole vocabulary for each token that is written would cost as much as a layer.
    let least = f64::from(largest(logits)) - NEGLIGIBLE * sampling.temperature;
    picked(least).or_else(|_| picked(f64::NEG_INFINITY)).unwrap_or_else(|last| last)
}

/// The token that `number` in [0, 1) picks of those whose logit is at least `least`.
///
/// # Errors
/// The last of them, where rounding carries the number beyond it.
fn pick(logits: &[f32], least: f64, sampling: &Sampling, number: f64) -> Result<u32, u32> {
    // A total order, equal logits by id: which token a number picks is then the same everywhere.
    let mut order: Vec<u64> = (0..)
        .zip(logits)
        // NaN stays: what is broken is not made to look likely.
        .filter(|(_, logit)| f64::from(**logit) >= least || logit.is_nan())
        .map(|(id, logit)| place(id, *logit))
        .collect();
    order.sort_unstable();
    let mut kept: Vec<(u32, f64)> = order
        .into_iter()
        .map(|place| place as u32)
        .map(|id| (id, f64::from(logits[id as usize]) / sampling.temperature))
        .collect();
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    let max = kept.first().map_or(0.0, |(_, v)| *v);
    for (_, value) in &mut kept {
        *value = (*value - max).exp();
    }
    let mut total: f64 = kept.iter().map(|(_, p)| p).sum();
    if sampling.top_p < 1.0 {
        let enough = sampling.top_p * total;
        let mut sum = 0.0;
        // The smallest set that reaches top_p, never empty.
        let keep = kept
            .iter()
            .take_while(|(_, p)| {
                let more = sum < enough;
                sum += p;
                more
            })
            .count()
            .max(1);
        kept.truncate(keep);
        total = kept.iter().map(|(_, p)| p).sum();
    }
    let mut left = number * total;
    for (id, p) in &kept {
        left -= p;
        if left < 0.0 {
            return Ok(*id);
        }
    }
    Err(kept.last().map_or(0, |(id, _)| *id))
}

/// Where a token stands among others: ascending by this is descending by logit, then ascending by id. One number sorts
/// several times faster than two that are compared one after the other.
const fn place(id: u32, logit: f32) -> u64 {
    let bits = logit.to_bits();
    // The order of `f32::total_cmp`.
    let ascending = if logit.is_sign_negative() { !bits } else { bits | 1 << 31 };
    (!ascending as u64) << 32 | id as u64
}

/// The index of the largest value, the first of equals.
#[must_use]
pub fn argmax(values: &[f32]) -> u32 {
    let largest = largest(values);
    values.iter().position(|value| *value == largest).unwrap_or(0) as u32
}

/// The largest value, in lanes: a fold over one value after another is ten times slower.
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

    fn counts(sampling: &Sampling, n: usize) -> [usize; 5] {
        let mut counts = [0; 5];
        let mut draw = Draw::new(7, "item", "sampling");
        for _ in 0..n {
            counts[next_token(&LOGITS, sampling, &mut draw) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(next_token(&LOGITS, &sampling(0.0, 1.0, 0), &mut Draw::new(0, "", "")), 1);
    }

    /// What [`next_token`] promises, written down as it is said.
    fn plain(logits: &[f32], sampling: &Sampling, number: f64) -> u32 {
        let mut kept: Vec<(u32, f64)> =
            (0..).zip(logits).map(|(id, v)| (id, f64::from(*v) / sampling.temperature)).collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if sampling.top_k > 0 {
            kept.truncate(sampling.top_k as usize);
        }
        let max = kept[0].1;
        let kept: Vec<(u32, f64)> = kept.into_iter().map(|(id, v)| (id, (v - max).exp())).collect();
        let sum = |kept: &[(u32, f64)]| kept.iter().map(|(_, p)| p).sum::<f64>();
        let enough = sampling.top_p * sum(&kept);
        let nucleus = (1..kept.len()).find(|n| sampling.top_p < 1.0 && sum(&kept[..*n]) >= enough);
        let kept = &kept[..nucleus.unwrap_or(kept.len())];
        let mut left = number * sum(kept);
        let passed = kept.iter().find(|(_, p)| {
            left -= p;
            left < 0.0
        });
        passed.unwrap_or(&kept[kept.len() - 1]).0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn leaving_out_unlikely_tokens_changes_no_pick(
            logits in vec(prop_oneof![-60f32..60.0, -1f32..1.0, Just(0.5)], 1..200),
            temperature in prop_oneof![Just(0.2), Just(1.0), 0.01..3.0],
            top_p in prop_oneof![Just(1.0), 0.01..1.0],
            top_k in prop_oneof![Just(0_u32), 1..250_u32],
            seed: u64,
        ) {
            let sampling = sampling(temperature, top_p, top_k);
            let mut draw = Draw::new(seed, "item", "sampling");
            for _ in 0..8 {
                let number = draw.clone().uniform();
                prop_assert_eq!(next_token(&logits, &sampling, &mut draw), plain(&logits, &sampling, number));
            }
        }

        #[test]
        fn a_number_near_one_picks_the_same(
            logits in vec(-60f32..60.0, 50..200), below in 1_u64..64
        ) {
            // The largest numbers that a draw can give: rounding decides which token of the tail they reach, if any.
            let number = 1.0 - below as f64 * f64::EPSILON / 2.0;
            let sampling = sampling(0.9, 1.0, 0);
            prop_assert_eq!(token_at(&logits, &sampling, number), plain(&logits, &sampling, number));
        }
    }

    #[test]
    fn what_is_no_number_is_picked_as_before() {
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for logits in [vec![1.0, broken, 3.0], vec![broken; 20]] {
                let sampling = sampling(0.7, 1.0, 0);
                assert_eq!(token_at(&logits, &sampling, 0.3), plain(&logits, &sampling, 0.3), "{broken}");
            }
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 40_000;
        let weights: Vec<f64> = LOGITS.iter().map(|v| (f64::from(*v) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts(&sampling(0.7, 1.0, 0), n).into_iter().zip(weights) {
            let expected = weight / total;
            let error = (expected * (1.0 - expected) / n as f64).sqrt();
            assert!((count as f64 / n as f64 - expected).abs() < 4.0 * error + 1e-9);
        }
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_tail() {
        let only = |counts: [usize; 5]| counts.map(|c| c > 0);
        assert_eq!(only(counts(&sampling(1.0, 1.0, 2), 2000)), [false, true, false, true, false]);
        // p = 0.053, 0.394, 0.145, 0.394, 0.007: two reach 0.7, three 0.8.
        assert_eq!(only(counts(&sampling(1.0, 0.7, 0), 2000)), [false, true, false, true, false]);
        assert_eq!(only(counts(&sampling(1.0, 0.8, 0), 2000)), [false, true, true, true, false]);
        assert_eq!(only(counts(&sampling(1.0, 1e-9, 0), 200)), [false, true, false, false, false]);
    }
}
