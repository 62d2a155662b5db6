//! The learning rate of each step (transformers `optimization.py`).

use stic_contract::recipe::{Optimizer, Schedule};

/// ceil(ratio * total).
#[must_use]
pub fn warmup_steps(total: u64, ratio: f64) -> u64 {
    (ratio * total as f64).ceil() as u64
}

/// The learning rate of step `step` (the first is 0) of `total`.
#[must_use]
pub fn learning_rate(optimizer: &Optimizer, step: u64, total: u64) -> f64 {
    let warmup = warmup_steps(total, optimizer.warmup_ratio);
    if step < warmup {
        return optimizer.learning_rate * step as f64 / warmup.max(1) as f64;
    }
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    let share = match optimizer.schedule {
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        Schedule::Linear => 1.0 - progress,
        Schedule::Constant => 1.0,
    };
    optimizer.learning_rate * share.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// from transformers import get_scheduler; import torch
    /// o = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    /// s = get_scheduler("cosine", o, num_warmup_steps=2, num_training_steps=10)
    /// for _ in range(10): print(o.param_groups[0]["lr"]); o.step(); s.step()
    /// ```
    #[test]
    fn equals_transformers() {
        let expected = [
            0.0,
            0.5,
            1.0,
            0.961_939_766_255_643_4,
            0.853_553_390_593_273_7,
            0.691_341_716_182_544_9,
            0.5,
            0.308_658_283_817_455_14,
            0.146_446_609_406_726_24,
            0.038_060_233_744_356_63,
        ];
        let optimizer = Optimizer {
            learning_rate: 1.0,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.11,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
        };
        assert_eq!(warmup_steps(10, 0.11), 2);
        for (step, expected) in expected.into_iter().enumerate() {
            let found = learning_rate(&optimizer, step as u64, 10);
            assert!((found - expected).abs() < 1e-15, "step {step}: {found} != {expected}");
        }
    }

    #[test]
    fn the_first_step_of_the_paper_has_rate_zero() {
        let optimizer = Optimizer {
            learning_rate: 1e-7,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
        };
        assert_eq!((warmup_steps(750, 0.03), learning_rate(&optimizer, 0, 750)), (23, 0.0));
        assert_eq!(learning_rate(&optimizer, 23, 750), 1e-7);
    }
}
