//! The average over benchmarks.

use super::estimate::{Estimate, Method};

/// The unweighted average of scores, or of differences, on independent benchmarks. `None` without any.
///
/// The interval is put together from those of the benchmarks (MOVER, Zou and Donner 2008), so that it keeps what they know
/// about small samples and skew: the distances of the limits from the average are the root of the sum of squares of the
/// benchmarks' distances, divided by their number.
#[must_use]
pub fn overall(estimates: &[Estimate]) -> Option<Estimate> {
    if estimates.is_empty() {
        return None;
    }
    let count = estimates.len() as f64;
    let root = |distance: &dyn Fn(&Estimate) -> f64| {
        estimates.iter().map(|estimate| distance(estimate).powi(2)).sum::<f64>().sqrt() / count
    };
    let points = estimates.iter().map(|estimate| estimate.points).sum::<f64>() / count;
    let errors: Option<Vec<f64>> = estimates.iter().map(|estimate| estimate.standard_error).collect();
    Some(Estimate {
        points,
        standard_error: errors
            .map(|errors| errors.iter().map(|error| error * error).sum::<f64>().sqrt() / count),
        low: points - root(&|estimate| estimate.points - estimate.low),
        high: points + root(&|estimate| estimate.high - estimate.points),
        method: Method::Combined,
        few: estimates.iter().any(|estimate| estimate.few),
    })
}
