//! From logits to a token: temperature, top-k, top-p, greedy.

use stic_contract::recipe::Sampling;

use super::draw::Draw;

/// The next token from `logits` `[vocab]`. Greedy at temperature 0, the first of equals; otherwise temperature,
/// then top-k, then top-p, as transformers orders them, and one uniform number of `draw`.
#[must_use]
pub fn next_token(logits: &[f32], sampling: &Sampling, draw: &mut Draw) -> u32 {
    if sampling.temperature <= 0.0 {
        return argmax(logits);
    }
    let mut kept: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(id, v)| (id as u32, f64::from(*v) / sampling.temperature)).collect();
    // A total order, equal logits by id: which token a number picks is then the same everywhere.
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
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
    let mut left = draw.uniform() * total;
    for (id, p) in &kept {
        left -= p;
        if left < 0.0 {
            return *id;
        }
    }
    kept.last().map_or(0, |(id, _)| *id)
}

/// The index of the largest value, the first of equals.
#[must_use]
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (id, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
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
