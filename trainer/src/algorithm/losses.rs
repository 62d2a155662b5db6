//! Losses as functions of summed log-probabilities, in f64, each with its derivatives.
//!
//! A preference loss sees the model only through log p(chosen) and log p(rejected). So its derivatives with
//! respect to these two numbers are written down here, and the tensor library continues from them. Nothing
//! depends on how it differentiates |h| at h = 0, where every run from a fresh adapter starts.

use stic_contract::recipe::{Dpo, DpoLoss};

/// The log-probability of a response: the sum over its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogProb {
    /// In nats.
    pub sum: f64,
    /// At least 1.
    pub tokens: usize,
}

/// The log-probabilities of a pair under one policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogProbs {
    pub chosen: LogProb,
    pub rejected: LogProb,
}

/// The loss of a pair, its derivatives, and the rewards that TRL logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    pub loss: f64,
    /// d loss / d (sum of log p(chosen)) under the policy.
    pub d_chosen: f64,
    /// d loss / d (sum of log p(rejected)) under the policy.
    pub d_rejected: f64,
    /// beta * (log p(chosen) - reference).
    pub reward_chosen: f64,
    /// beta * (log p(rejected) - reference).
    pub reward_rejected: f64,
}

/// DPO (arXiv 2305.18290, equation 7) with STIC's `- alpha log p(chosen)` (arXiv 2405.19716, equation 3).
///
/// With h = beta * ((log p(chosen) - ref) - (log p(rejected) - ref)): sigmoid, cDPO with label smoothing e:
/// `-(1-e) log sigmoid(h) - e log sigmoid(-h)`; hinge (SLiC, SPIN's ablation): `max(0, 1 - h)`; IPO (arXiv
/// 2310.12036, equation 17): `(h/beta - 1/(2 beta))^2` over per-token means, as TRL.
#[must_use]
pub fn dpo(policy: PairLogProbs, reference: PairLogProbs, dpo: &Dpo) -> PairLoss {
    let beta = dpo.beta;
    let chosen = policy.chosen.sum - reference.chosen.sum;
    let rejected = policy.rejected.sum - reference.rejected.sum;
    // (loss, d loss / d (chosen log-ratio), d loss / d (rejected log-ratio))
    let (loss, d_chosen, d_rejected) = match dpo.loss {
        DpoLoss::Sigmoid => {
            let h = beta * (chosen - rejected);
            let smoothing = dpo.label_smoothing;
            let loss = (1.0 - smoothing) * softplus(-h) + smoothing * softplus(h);
            let slope = beta * (smoothing * sigmoid(h) - (1.0 - smoothing) * sigmoid(-h));
            (loss, slope, -slope)
        }
        DpoLoss::Hinge => {
            let h = beta * (chosen - rejected);
            let slope = if h < 1.0 { -beta } else { 0.0 };
            ((1.0 - h).max(0.0), slope, -slope)
        }
        DpoLoss::Ipo => {
            let (n_chosen, n_rejected) = (policy.chosen.tokens as f64, policy.rejected.tokens as f64);
            let distance = chosen / n_chosen - rejected / n_rejected - 0.5 / beta;
            (distance * distance, 2.0 * distance / n_chosen, -2.0 * distance / n_rejected)
        }
    };
    PairLoss {
        loss: loss - dpo.chosen_log_prob_weight * policy.chosen.sum,
        d_chosen: d_chosen - dpo.chosen_log_prob_weight,
        d_rejected,
        reward_chosen: beta * chosen,
        reward_rejected: beta * rejected,
    }
}

/// Whether the policy prefers the chosen response more than the reference does: its reward is larger by more than the
/// rounding of four sums in f32. Where the policy is the reference, both rewards are rounding alone.
#[must_use]
pub fn prefers_chosen(loss: &PairLoss, policy: PairLogProbs, reference: PairLogProbs, beta: f64) -> bool {
    let sums = [policy.chosen, policy.rejected, reference.chosen, reference.rejected];
    let rounding = f64::from(f32::EPSILON) * sums.iter().map(|log_prob| log_prob.sum.abs()).sum::<f64>();
    loss.reward_chosen - loss.reward_rejected > beta * rounding
}

/// log(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use stic_contract::recipe::{Reference, RejectedTerm};

    use super::*;

    fn config(loss: DpoLoss, label_smoothing: f64, alpha: f64) -> Dpo {
        Dpo {
            loss,
            beta: 0.1,
            label_smoothing,
            chosen_log_prob_weight: alpha,
            rejected_term: RejectedTerm::LogProb,
            reference: Reference::Base,
            rejected_image_noise_steps: None,
        }
    }

    fn pair(chosen: f64, rejected: f64) -> PairLogProbs {
        PairLogProbs {
            chosen: LogProb { sum: chosen, tokens: 12 },
            rejected: LogProb { sum: rejected, tokens: 18 },
        }
    }

    /// ```python
    /// import torch, torch.nn.functional as F
    /// w = torch.tensor(-83.5, dtype=torch.float64, requires_grad=True)
    /// l = torch.tensor(-120.25, dtype=torch.float64, requires_grad=True)
    /// rw, rl, b = -84.0, -119.0, 0.1
    /// h = b * ((w - rw) - (l - rl))
    /// for name, loss in [("stic", -F.logsigmoid(h) - w / 1024),
    ///                    ("cdpo", -F.logsigmoid(h) * 0.9 - F.logsigmoid(-h) * 0.1),
    ///                    ("hinge", torch.relu(1 - h)),
    ///                    ("ipo", ((w - rw) / 12 - (l - rl) / 18 - 1 / (2 * b)) ** 2)]:
    ///     print(name, loss.item(), *[g.item() for g in torch.autograd.grad(loss, (w, l), retain_graph=True)])
    /// ```
    #[test]
    fn losses_and_derivatives_equal_torch() {
        let (policy, reference) = (pair(-83.5, -120.25), pair(-84.0, -119.0));
        for (config, expected) in [
            (config(DpoLoss::Sigmoid, 0.0, 1.0 / 1024.0), TORCH[0]),
            (config(DpoLoss::Sigmoid, 0.1, 0.0), TORCH[1]),
            (config(DpoLoss::Hinge, 0.0, 0.0), TORCH[2]),
            (config(DpoLoss::Ipo, 0.0, 0.0), TORCH[3]),
        ] {
            let found = dpo(policy, reference, &config);
            for (found, expected) in [found.loss, found.d_chosen, found.d_rejected].into_iter().zip(expected)
            {
                assert!((found - expected).abs() < 1e-12, "{:?}: {found} != {expected}", config.loss);
            }
        }
    }

    const TORCH: [[f64; 3]; 4] = [
        [0.691_013_399_413_046_8, -0.046_612_693_776_292_12, 0.045_636_131_276_292_12],
        [0.626_970_430_663_046_8, -0.035_636_131_276_292_11, 0.035_636_131_276_292_11],
        [0.825, -0.1, 0.1],
        [23.901_234_567_901_238, -0.814_814_814_814_814_9, 0.543_209_876_543_21],
    ];

    #[test]
    fn sigmoid_starts_at_log_two_with_half_the_slope() {
        let found = dpo(pair(-5.0, -6.0), pair(-5.0, -6.0), &config(DpoLoss::Sigmoid, 0.0, 0.0));
        assert!((found.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((found.d_chosen, found.d_rejected), (-0.05, 0.05));
    }

    #[test]
    fn a_margin_of_rounding_is_no_preference() {
        let config = config(DpoLoss::Sigmoid, 0.0, 0.0);
        let reference = pair(-83.5, -120.25);
        for (chosen, preferred) in [(-83.5, false), (-83.499_99, false), (-83.499, true), (-83.501, false)] {
            let policy = pair(chosen, -120.25);
            let loss = dpo(policy, reference, &config);
            assert_eq!(prefers_chosen(&loss, policy, reference, config.beta), preferred, "{chosen}");
        }
    }

    #[test]
    fn stays_finite_for_large_margins() {
        for distance in [1e5, -1e5] {
            let found =
                dpo(pair(-10.0 + distance, -10.0), pair(-10.0, -10.0), &config(DpoLoss::Sigmoid, 0.0, 0.0));
            assert!(found.loss.is_finite() && found.d_chosen.is_finite());
        }
    }
}
