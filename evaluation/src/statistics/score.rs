//! The score of one model.

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, Evidence, Method, most};
use super::limits::{Limits, wilson};
use super::linear::{Cluster, Numbering, Variance};
use super::student::{NORMAL_975, t_975};
use crate::metric::{Aggregate, Fractions, Metric};

/// A score with its uncertainty and what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// `None` if the denominator is 0: nothing was counted.
    pub estimate: Option<Estimate>,
    /// The units that the score is over.
    pub counted: usize,
    /// The counted units of which no rule could tell what was answered.
    pub unresolved: usize,
    /// The units left out because a judge gave no score, or none that is a number.
    pub failed: usize,
    /// The clusters of the counted units.
    pub clusters: usize,
}

/// The score of a model on a benchmark.
#[must_use]
pub fn score(metric: &Metric) -> Score {
    let mut numbering = Numbering::default();
    let mut fractions = Vec::with_capacity(metric.units.len());
    let mut unresolved = 0;
    for unit in &metric.units {
        let fraction = unit.sums.as_deref().and_then(|sums| metric.aggregate.fractions(sums));
        if let Some(fraction) = fraction {
            fractions.push((numbering.number(&unit.cluster), fraction));
            unresolved += usize::from(unit.unresolved);
        }
    }
    let counted = fractions.len();
    let clusters = numbering.len();
    Score {
        estimate: estimate(metric.aggregate, &fractions, clusters),
        counted,
        unresolved,
        failed: metric.units.len() - counted,
        clusters,
    }
}

/// `fractions` are of units, with the number of their cluster.
fn estimate(aggregate: Aggregate, fractions: &[(usize, Fractions)], clusters: usize) -> Option<Estimate> {
    let mut total = Fractions::default();
    let mut sums = vec![Fractions::default(); clusters];
    for (cluster, fraction) in fractions {
        total += fraction;
        sums[*cluster] += fraction;
    }
    let points = aggregate.score(&total, fractions.len())?;
    let ratio = total.ratio()?;
    let linear: Vec<Cluster> = sums
        .iter()
        .map(|sum| Some(Cluster { residual: sum.residual(&total)?, share: sum.share(&total)? }))
        .collect::<Option<_>>()?;
    let evidence = Evidence {
        variance: Variance::of(&linear),
        units: fractions.iter().filter(|(_, fraction)| fraction.whole() > 0.0).count(),
        differing: differing(aggregate, &sums, &linear),
    };
    let range = Limits { low: 0.0, high: most(aggregate) };
    let binary = |(_, fraction): &(usize, Fractions)| fraction.is_binary();
    let (method, limits) = match evidence.variance {
        _ if clusters == fractions.len() && fractions.iter().all(binary) => {
            (Method::Score, wilson(ratio, fractions.len() as f64, NORMAL_975))
        }
        None => (Method::Range, range.scaled(0.01)),
        Some(variance) if aggregate != Aggregate::RatioOfMeans && (0.0..=1.0).contains(&ratio) => {
            let units = evidence.effective_units(ratio * (1.0 - ratio), variance);
            (Method::EffectiveScore, wilson(ratio, units, t_975(variance.degrees)))
        }
        Some(variance) => (Method::Student, evidence.student(ratio, variance)),
    };
    Some(evidence.estimate(points, ratio, method, limits, range))
}

/// How many clusters are not all right, or not all wrong, whichever are fewer, and not all in the ratio of the score.
fn differing(aggregate: Aggregate, sums: &[Fractions], linear: &[Cluster]) -> usize {
    let unlike = linear.iter().filter(|cluster| cluster.differs()).count();
    if aggregate == Aggregate::RatioOfMeans {
        return unlike;
    }
    let right = sums.iter().filter(|sum| sum.part() > 0.0).count();
    let wrong = sums.iter().filter(|sum| sum.part() < sum.whole()).count();
    right.min(wrong).min(unlike)
}
