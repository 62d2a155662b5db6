//! 95% intervals of means and of paired differences.

/// 97.5% quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A mean and half the width of its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    /// The interval is mean ± this.
    pub(super) half_width: f64,
}

/// The mean of `values` with its normal interval.
#[must_use]
pub(super) fn mean(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    if values.is_empty() {
        return Estimate { mean: f64::NAN, half_width: f64::NAN };
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Estimate { mean, half_width: Z * (variance / n).sqrt() }
}

/// The mean of `a - b` for the same examples. What the examples have in common cancels, so the interval is narrower than
/// those of the two means suggest.
#[must_use]
pub(super) fn paired_difference(a: &[f64], b: &[f64]) -> Estimate {
    mean(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// from scipy import stats; import numpy as np
    /// d = np.array([1, 0, 0, 1, 1]) - np.array([0, 0, 1, 0, 1.])
    /// print(d.mean(), stats.norm.ppf(.975) * d.std(ddof=1) / 5**.5)  # 0.2 0.7333...
    /// ```
    #[test]
    fn paired_differences_have_the_normal_interval_that_scipy_computes() {
        let found = paired_difference(&[1.0, 0.0, 0.0, 1.0, 1.0], &[0.0, 0.0, 1.0, 0.0, 1.0]);
        assert!((found.mean - 0.2).abs() < 1e-12);
        assert!(
            (found.half_width - 1.959_963_984_540_054 * (0.7f64 / 5.0).sqrt()).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(paired_difference(&[1.0, 1.0], &[1.0, 1.0]), Estimate { mean: 0.0, half_width: 0.0 });
    }
}
