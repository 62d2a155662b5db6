//! A number with its 95% interval.

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::linear::Variance;
use super::student::{NORMAL_975, t_975};
use crate::metric::Aggregate;

/// A score or a difference, in points (hundredths), with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    pub points: f64,
    /// `None` where a single cluster leaves nothing to estimate it from. It can be 0 where the interval has a width: the
    /// interval allows for what other questions would have shown.
    pub standard_error: Option<f64>,
    pub low: f64,
    pub high: f64,
    pub method: Method,
    /// Whether fewer than six clusters differ (of a score: whether fewer than six are not all right, or not all wrong).
    /// So few say little about the variance: unless units are independent and right or wrong, the interval allows for one
    /// more cluster that changes as a whole.
    pub few: bool,
}

/// How an interval was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Independent units that are right or wrong: Wilson's interval of a score, Tango's of a difference.
    Score,
    /// The same at the effective number of units, with Student's t: units that share clusters, or are partly right.
    EffectiveScore,
    /// Student's t on linearised sums of clusters: ratios and their differences.
    Student,
    /// All the data is in one cluster: the interval is all that is possible.
    Range,
    /// The intervals of several benchmarks put together.
    Combined,
}

/// With fewer clusters that differ, no exact sign test reaches 5%: `2 * 0.5^5 > 0.05`.
const FEW: usize = 6;

/// The largest score. Judges of LLaVA-Bench give 1 to 10.
pub(super) const fn most(aggregate: Aggregate) -> f64 {
    match aggregate {
        Aggregate::Percentage | Aggregate::F1 | Aggregate::MeanOfPercentages | Aggregate::MeanOfF1 => 100.0,
        Aggregate::RatioOfMeans => 1000.0,
    }
}

/// What the data says about how sure an estimate is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// `None` if all the data is in one cluster.
    pub(super) variance: Option<Variance>,
    /// The units in the denominator.
    pub(super) units: usize,
    /// How many clusters differ, and not all by the same.
    pub(super) differing: usize,
}

impl Evidence {
    /// The weight, from 1 to 0, of an imagined cluster that changes as a whole. It makes up for what fewer than [`FEW`]
    /// clusters cannot show.
    fn imagined(&self) -> f64 {
        1.0 - self.differing.min(FEW) as f64 / FEW as f64
    }

    /// The number of independent units, right or wrong, whose variance would be the one that was estimated. `spread` is
    /// the variance of one such unit.
    pub(super) fn effective_units(&self, spread: f64, variance: Variance) -> f64 {
        // Where nothing varies nothing differs, so that `imagined` keeps both sums above 0.
        let imagined = self.imagined() / self.units as f64;
        (spread + imagined) / (variance.variance + imagined / variance.effective)
    }

    /// Student's t around `ratio`. Where few clusters differ, it is no narrower than Wilson's interval of none out of as
    /// many units as there are clusters.
    pub(super) fn student(&self, ratio: f64, variance: Variance) -> Limits {
        let square = NORMAL_975 * NORMAL_975;
        let none = square / (variance.effective + square);
        let half = (t_975(variance.degrees) * variance.variance.sqrt()).max(self.imagined() * none);
        Limits { low: ratio - half, high: ratio + half }
    }

    /// In points. `points` differs from `ratio` where a reference rounds, and `limits` move with it. They are cut to `range`,
    /// in points, but always contain `points`.
    pub(super) fn estimate(
        &self,
        points: f64,
        ratio: f64,
        method: Method,
        limits: Limits,
        range: Limits,
    ) -> Estimate {
        let moved = |limit: f64| (points + 100.0 * (limit - ratio)).clamp(range.low, range.high);
        Estimate {
            points,
            standard_error: self.variance.map(|variance| 100.0 * variance.variance.sqrt()),
            low: moved(limits.low).min(points),
            high: moved(limits.high).max(points),
            method,
            few: self.differing < FEW,
        }
    }
}
