//! Limits of proportions and of their paired differences by inverting score tests. Counts may be fractions: an effective
//! number of units is one.

/// Limits between 0 and 1, or -1 and 1 for differences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Limits {
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }
}

/// Wilson (1927): the proportions that a score test does not reject.
pub(super) fn wilson(proportion: f64, n: f64, quantile: f64) -> Limits {
    let square = quantile * quantile;
    let centre = (proportion + square / (2.0 * n)) / (1.0 + square / n);
    let spread = proportion * (1.0 - proportion) / n + square / (4.0 * n * n);
    let half = quantile * spread.sqrt() / (1.0 + square / n);
    Limits { low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

/// Tango (1998): the differences `(gained - lost) / n` that a score test does not reject.
pub(super) fn tango(gained: f64, lost: f64, n: f64, quantile: f64) -> Limits {
    // The lower limit is the upper one of the swapped table, bit by bit.
    Limits { low: -tango_high(lost, gained, n, quantile), high: tango_high(gained, lost, n, quantile) }
}

/// The root of `statistic == -quantile`, by bisection until the bracket has no midpoint.
fn tango_high(gained: f64, lost: f64, n: f64, quantile: f64) -> f64 {
    let (mut low, mut high) = ((gained - lost) / n, 1.0);
    loop {
        let middle = 0.5 * (low + high);
        if low < middle && middle < high {
            let rejected = statistic(gained, lost, n, middle) < -quantile;
            *(if rejected { &mut high } else { &mut low }) = middle;
        } else {
            return high;
        }
    }
}

/// Tango's equations 24 to 26: the score statistic of the null hypothesis that the difference is `delta`.
fn statistic(gained: f64, lost: f64, n: f64, delta: f64) -> f64 {
    let a = 2.0 * n;
    let b = (2.0 * n - gained + lost) * delta - gained - lost;
    let c = -lost * delta * (1.0 - delta);
    let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
    // The maximum likelihood estimate of the share of lost ones, in the form that does not cancel.
    let share = if b > 0.0 { -2.0 * c / (b + root) } else { (root - b) / (2.0 * a) };
    let variance = n * (2.0 * share + delta * (1.0 - delta));
    (gained - lost - n * delta) / variance.sqrt()
}
