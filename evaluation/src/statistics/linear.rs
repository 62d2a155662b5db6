//! The variance of a ratio of sums, or of a difference of two, by linearisation over clusters.

use std::collections::HashMap;

/// What a cluster adds to an estimate, to first order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cluster {
    /// The residual of its sum; the residuals of all clusters add up to 0.
    pub(super) residual: f64,
    /// Its share of the denominator; the shares add up to 1.
    pub(super) share: f64,
}

impl Cluster {
    /// Whether the cluster differs from the average by more than rounding.
    pub(super) fn differs(&self) -> bool {
        self.residual.abs() > 1e-9 * self.share
    }
}

/// The variance of an estimate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variance {
    /// Cluster-robust (CR2): a cluster's squared residual counts `1 / (1 - share)` times, since a large cluster draws the
    /// estimate to itself. For clusters of one size it is the factor `G / (G - 1)`.
    pub(super) variance: f64,
    /// Of Student's t, by Bell and McCaffrey; `G - 1` for clusters of one size.
    pub(super) degrees: f64,
    /// Kish's effective number of clusters; `G` for clusters of one size.
    pub(super) effective: f64,
}

impl Variance {
    /// `None` if all the data is in one cluster.
    pub(super) fn of(clusters: &[Cluster]) -> Option<Self> {
        let (mut variance, mut squares, mut weighted, mut correction, mut used) =
            (0.0, 0.0, 0.0, 0.0, 0_usize);
        for Cluster { residual, share } in clusters.iter().copied().filter(|cluster| cluster.share > 0.0) {
            let weight = 1.0 / (1.0 - share);
            variance += residual * residual * weight;
            squares += share * share;
            weighted += share * share * weight;
            correction += (share * share * weight).powi(2);
            used += 1;
        }
        // The shares are rounded, so that a single one may be just under 1.
        if used < 2 || squares > 1.0 - 1e-9 {
            return None;
        }
        let degrees = 1.0 / (squares + weighted * weighted - correction);
        let degrees = degrees.clamp(1.0, (used - 1) as f64);
        Some(Self { variance, degrees, effective: 1.0 / squares })
    }
}

/// Cluster names as numbers, in the order of their first appearance.
#[derive(Debug, Default)]
pub(super) struct Numbering<'a>(HashMap<&'a str, usize>);

impl<'a> Numbering<'a> {
    pub(super) fn number(&mut self, name: &'a str) -> usize {
        let next = self.0.len();
        *self.0.entry(name).or_insert(next)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
