//! The difference between two models that answered the same questions.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, Evidence, Method, most};
use super::limits::{Limits, tango};
use super::linear::{Cluster, Numbering, Variance};
use super::student::{NORMAL_975, t_975};
use crate::metric::{Aggregate, Fractions, Metric};

/// How much better a model scores than a baseline on the units that count for both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `None` if there is no pair, a denominator is 0, or the metrics are of different kinds.
    pub estimate: Option<Estimate>,
    /// The units that count for both.
    pub pairs: usize,
    /// The units that only one of the models has, or that lack sums in one or both.
    pub left_out: usize,
    /// The clusters of the pairs.
    pub clusters: usize,
}

/// The score of `model` minus that of `baseline`, in points, over the units that count for both.
#[must_use]
pub fn difference(model: &Metric, baseline: &Metric) -> Difference {
    let pairs = Pairs::of(model, baseline);
    Difference {
        estimate: pairs.estimate(model.aggregate, baseline.aggregate),
        pairs: pairs.units.len(),
        left_out: pairs.left_out,
        clusters: pairs.clusters,
    }
}

/// A unit of both models.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    cluster: usize,
    model: Fractions,
    baseline: Fractions,
}

/// The units that count for both models.
#[derive(Debug)]
pub(super) struct Pairs {
    pub(super) units: Vec<Pair>,
    pub(super) clusters: usize,
    left_out: usize,
    model: Fractions,
    baseline: Fractions,
}

impl Pairs {
    pub(super) fn of(model: &Metric, baseline: &Metric) -> Self {
        let mut others: HashMap<&str, Option<Fractions>> = baseline
            .units
            .iter()
            .map(|unit| {
                let fraction = unit.sums.as_deref().and_then(|sums| baseline.aggregate.fractions(sums));
                (unit.id.as_str(), fraction)
            })
            .collect();
        let mut numbering = Numbering::default();
        let mut pairs = Self {
            units: Vec::with_capacity(model.units.len()),
            clusters: 0,
            left_out: 0,
            model: Fractions::default(),
            baseline: Fractions::default(),
        };
        for unit in &model.units {
            let own = unit.sums.as_deref().and_then(|sums| model.aggregate.fractions(sums));
            let other = others.remove(unit.id.as_str()).flatten();
            if let (Some(model), Some(baseline)) = (own, other) {
                pairs.model += &model;
                pairs.baseline += &baseline;
                pairs.units.push(Pair { cluster: numbering.number(&unit.cluster), model, baseline });
            } else {
                pairs.left_out += 1;
            }
        }
        // What remains was never asked of the model.
        pairs.left_out += others.len();
        pairs.clusters = numbering.len();
        pairs
    }

    fn estimate(&self, aggregate: Aggregate, other: Aggregate) -> Option<Estimate> {
        if aggregate != other {
            return None;
        }
        let count = self.units.len();
        let points = aggregate.score(&self.model, count)? - aggregate.score(&self.baseline, count)?;
        let ratio = self.model.ratio()? - self.baseline.ratio()?;
        let linear = self.clustered(&self.linear()?);
        let evidence =
            Evidence { variance: Variance::of(&linear), units: count, differing: self.differing(&linear) };
        let range = Limits { low: -most(aggregate), high: most(aggregate) };
        let (gained, lost) = self.discordant();
        let units = count as f64;
        let (method, limits) = match evidence.variance {
            _ if self.clusters == count && self.units.iter().all(Pair::is_binary) => {
                (Method::Score, tango(gained, lost, units, NORMAL_975))
            }
            None => (Method::Range, range.scaled(0.01)),
            Some(variance) if self.units.iter().all(Pair::is_partial) => {
                let effective = evidence.effective_units((gained + lost) / units - ratio * ratio, variance);
                let scale = effective / units;
                (
                    Method::EffectiveScore,
                    tango(gained * scale, lost * scale, effective, t_975(variance.degrees)),
                )
            }
            Some(variance) => (Method::Student, evidence.student(ratio, variance)),
        };
        Some(evidence.estimate(points, ratio, method, limits, range))
    }

    /// The sums of what units gained and lost against the baseline; the numbers of such units if all are right or wrong.
    pub(super) fn discordant(&self) -> (f64, f64) {
        self.units.iter().map(|pair| pair.model.part() - pair.baseline.part()).fold(
            (0.0, 0.0),
            |(gained, lost), difference| {
                if difference > 0.0 { (gained + difference, lost) } else { (gained, lost - difference) }
            },
        )
    }

    /// What each pair adds to the difference of the scores, to first order; `None` where a denominator is 0.
    pub(super) fn linear(&self) -> Option<Vec<Cluster>> {
        let pairs = self.units.iter().map(|Pair { model, baseline, .. }| {
            Some(Cluster {
                residual: model.residual(&self.model)? - baseline.residual(&self.baseline)?,
                share: 0.5 * (model.share(&self.model)? + baseline.share(&self.baseline)?),
            })
        });
        pairs.collect()
    }

    /// The sums of `linear` over clusters.
    pub(super) fn clustered(&self, linear: &[Cluster]) -> Vec<Cluster> {
        let mut clusters = vec![Cluster::default(); self.clusters];
        for (pair, own) in self.units.iter().zip(linear) {
            let cluster = &mut clusters[pair.cluster];
            cluster.residual += own.residual;
            cluster.share += own.share;
        }
        clusters
    }

    /// How many clusters differ between the models, in another way than by the average difference.
    fn differing(&self, linear: &[Cluster]) -> usize {
        let mut unlike = vec![false; self.clusters];
        for pair in &self.units {
            unlike[pair.cluster] |= pair.model != pair.baseline;
        }
        unlike.iter().zip(linear).filter(|(unlike, cluster)| **unlike && cluster.differs()).count()
    }
}

impl Pair {
    /// Whether both answers count fully and are right, wrong, or something between.
    fn is_partial(&self) -> bool {
        self.model.is_partial() && self.baseline.is_partial()
    }

    /// Whether both answers are either right or wrong.
    pub(super) fn is_binary(&self) -> bool {
        self.model.is_binary() && self.baseline.is_binary()
    }
}
