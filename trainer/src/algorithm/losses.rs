//! Losses as functions of summed log-probabilities, in f64, each with its derivatives.
//!
//! A preference loss sees the model only through log p(chosen) and log p(rejected). So its derivatives with
//! respect to these two numbers are written down here, and the tensor library continues from them. Nothing
//! depends on how it differentiates |h| at h = 0, where every run from a fresh adapter starts.
//!
//! Everything stays on the device, because reading a number from it would wait for all that it has to do.

use candle_core::{DType, Result, Tensor};
use stic_contract::recipe::{Dpo, DpoLoss};

/// The losses of pairs, on the device. Sums are those of log-probabilities, in nats.
#[derive(Debug)]
pub struct PairLosses {
    /// d loss / d sum of the chosen and the rejected response under the policy, `[pairs, 2]`.
    pub slopes: Tensor,
    /// What [`PairLoss::read`] reads, `[pairs, PairLoss::WIDTH]`.
    pub rows: Tensor,
}

/// The loss of a pair, the rewards that TRL logs, and what they were computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    pub loss: f64,
    /// beta * (log p(chosen) - reference).
    pub reward_chosen: f64,
    /// beta * (log p(rejected) - reference).
    pub reward_rejected: f64,
    /// The sums of the chosen and the rejected response under the policy.
    pub policy: [f64; 2],
    /// The same under the reference policy.
    pub reference: [f64; 2],
}

impl PairLoss {
    /// Numbers in a row of [`PairLosses::rows`].
    pub const WIDTH: usize = 7;

    /// The pairs of [`PairLosses::rows`], flattened.
    pub fn read(rows: &[f64]) -> impl Iterator<Item = Self> + '_ {
        let (rows, _) = rows.as_chunks::<{ Self::WIDTH }>();
        rows.iter().map(
            |&[loss, reward_chosen, reward_rejected, chosen, rejected, ref_chosen, ref_rejected]| Self {
                loss,
                reward_chosen,
                reward_rejected,
                policy: [chosen, rejected],
                reference: [ref_chosen, ref_rejected],
            },
        )
    }

    /// Whether the policy prefers the chosen response more than the reference does: its reward is larger by more than the
    /// rounding of four sums in f32. Where the policy is the reference, both rewards are rounding alone.
    #[must_use]
    pub fn prefers_chosen(&self, beta: f64) -> bool {
        let sums = self.policy.iter().chain(&self.reference);
        let rounding = f64::from(f32::EPSILON) * sums.map(|sum| sum.abs()).sum::<f64>();
        self.reward_chosen - self.reward_rejected > beta * rounding
    }
}

/// DPO (arXiv 2305.18290, equation 7) with STIC's `- alpha log p(chosen)` (arXiv 2405.19716, equation 3), from the sums of
/// chosen and rejected responses under the policy and the reference, `[pairs, 2]` in f64 each, and their numbers of tokens.
///
/// With h = beta * ((log p(chosen) - ref) - (log p(rejected) - ref)): sigmoid, cDPO with label smoothing e:
/// `-(1-e) log sigmoid(h) - e log sigmoid(-h)`; hinge (SLiC, SPIN's ablation): `max(0, 1 - h)`; IPO (arXiv
/// 2310.12036, equation 17): `(h/beta - 1/(2 beta))^2` over per-token means, as TRL.
///
/// # Errors
/// [`candle_core::Error`] for other shapes.
pub fn dpo(policy: &Tensor, reference: &Tensor, tokens: &[[usize; 2]], dpo: &Dpo) -> Result<PairLosses> {
    let beta = dpo.beta;
    let log_ratios = (policy - reference)?;
    let column = |of: &Tensor, index: usize| of.narrow(1, index, 1);
    let (chosen, rejected) = (column(&log_ratios, 0)?, column(&log_ratios, 1)?);
    // The loss, and its derivatives to the log-ratios of chosen and rejected; each is `[pairs, 1]`.
    let (loss, d_chosen, d_rejected) = match dpo.loss {
        DpoLoss::Sigmoid => {
            let h = ((chosen - rejected)? * beta)?;
            let smoothing = dpo.label_smoothing;
            let loss = ((softplus(&h.neg()?)? * (1.0 - smoothing))? + (softplus(&h)? * smoothing)?)?;
            let slope = ((sigmoid(&h)? * smoothing)? - (sigmoid(&h.neg()?)? * (1.0 - smoothing))?)?;
            let slope = (slope * beta)?;
            (loss, slope.clone(), slope.neg()?)
        }
        DpoLoss::Hinge => {
            let h = ((chosen - rejected)? * beta)?;
            let slope = (h.lt(1.0)?.to_dtype(DType::F64)? * -beta)?;
            (h.affine(-1.0, 1.0)?.relu()?, slope.clone(), slope.neg()?)
        }
        DpoLoss::Ipo => {
            let counts: Vec<f64> = tokens.iter().flatten().map(|count| *count as f64).collect();
            let counts = Tensor::from_vec(counts, policy.shape(), policy.device())?;
            let means = (log_ratios.clone() / &counts)?;
            let distance = ((column(&means, 0)? - column(&means, 1)?)? - 0.5 / beta)?;
            let slopes = (&distance * 2.0)?;
            let (n_chosen, n_rejected) = (column(&counts, 0)?, column(&counts, 1)?);
            (distance.sqr()?, (&slopes / n_chosen)?, (slopes / n_rejected)?.neg()?)
        }
    };
    let alpha = dpo.chosen_log_prob_weight;
    let loss = (loss - (column(policy, 0)? * alpha)?)?;
    let slopes = Tensor::cat(&[(d_chosen - alpha)?, d_rejected], 1)?;
    let rows = Tensor::cat(&[&loss, &(log_ratios * beta)?, policy, reference], 1)?;
    Ok(PairLosses { slopes, rows })
}

/// log(1 + e^x), without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// 1 / (1 + e^-x): 0 where e^-x is infinite.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
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

    /// The losses of pairs of 12 and 18 tokens, each with its derivatives.
    fn losses(policy: &[[f64; 2]], reference: &[[f64; 2]], config: &Dpo) -> Vec<(PairLoss, [f64; 2])> {
        let sums =
            |of: &[[f64; 2]]| Tensor::from_vec(of.concat(), (of.len(), 2), &Device::Cpu).expect("sums");
        let tokens = vec![[12, 18]; policy.len()];
        let found = dpo(&sums(policy), &sums(reference), &tokens, config).expect("losses");
        let rows = found.rows.flatten_all().and_then(|rows| rows.to_vec1()).expect("rows");
        let slopes = found.slopes.to_vec2().expect("slopes");
        PairLoss::read(&rows).zip(slopes.into_iter().map(|row| [row[0], row[1]])).collect()
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
        for (config, expected) in [
            (config(DpoLoss::Sigmoid, 0.0, 1.0 / 1024.0), TORCH[0]),
            (config(DpoLoss::Sigmoid, 0.1, 0.0), TORCH[1]),
            (config(DpoLoss::Hinge, 0.0, 0.0), TORCH[2]),
            (config(DpoLoss::Ipo, 0.0, 0.0), TORCH[3]),
        ] {
            // The second pair checks that each row has its own loss.
            let policy = [[-83.5, -120.25], [-90.0, -90.0]];
            let found = losses(&policy, &[[-84.0, -119.0], [-90.0, -90.0]], &config);
            let (pair, [d_chosen, d_rejected]) = found[0];
            for (found, expected) in [pair.loss, d_chosen, d_rejected].into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{:?}: {found} != {expected}", config.loss);
            }
            assert_ne!(found[1].0.loss, pair.loss, "{:?}", config.loss);
            assert_eq!((pair.policy, pair.reference), ([-83.5, -120.25], [-84.0, -119.0]));
            assert!(
                (pair.reward_chosen - 0.05).abs() < 1e-15 && (pair.reward_rejected + 0.125).abs() < 1e-15
            );
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
        let found = losses(&[[-5.0, -6.0]], &[[-5.0, -6.0]], &config(DpoLoss::Sigmoid, 0.0, 0.0));
        assert!((found[0].0.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(found[0].1, [-0.05, 0.05]);
    }

    #[test]
    fn a_margin_of_rounding_is_no_preference() {
        let config = config(DpoLoss::Sigmoid, 0.0, 0.0);
        for (chosen, preferred) in [(-83.5, false), (-83.499_99, false), (-83.499, true), (-83.501, false)] {
            let found = losses(&[[chosen, -120.25]], &[[-83.5, -120.25]], &config);
            assert_eq!(found[0].0.prefers_chosen(config.beta), preferred, "{chosen}");
        }
    }

    #[test]
    fn stays_finite_for_large_margins() {
        for distance in [1e5, -1e5] {
            let found =
                losses(&[[-10.0 + distance, -10.0]], &[[-10.0, -10.0]], &config(DpoLoss::Sigmoid, 0.0, 0.0));
            let (pair, [d_chosen, _]) = found[0];
            assert!(pair.loss.is_finite() && d_chosen.is_finite());
        }
    }
}
