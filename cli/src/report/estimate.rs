//! Numbers with intervals, and how they are written.

/// A number of points with its 95% interval, where that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub points: f64,
    pub interval: Option<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub(super) fn half_width(self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

pub(super) fn score_text(points: f64) -> String {
    format!("{points:.1}")
}

pub(super) fn difference_text(points: f64) -> String {
    format!("{points:+.1}")
}

pub(super) fn score_interval(interval: Interval) -> String {
    format!("{:.1} to {:.1}", interval.low, interval.high)
}

pub(super) fn difference_interval(interval: Interval) -> String {
    format!("{:+.1} to {:+.1}", interval.low, interval.high)
}
