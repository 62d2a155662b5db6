//! What people read: progress, and the columns of `kubectl get`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use stic_contract::Progress;
use stic_crds::status::{self, Display};

use crate::refusal::Reason;

pub(super) fn progress(progress: &Progress) -> status::Progress {
    status::Progress {
        step: progress.step,
        percent: progress.percent(),
        current_step: progress.current,
        total_steps: progress.total,
        unit: progress.unit.clone(),
        estimated_remaining_seconds: progress.estimated_remaining_seconds,
        metrics: progress.metrics.iter().map(|(name, value)| (name.clone(), metric(*value))).collect(),
        last_updated_time: i64::try_from(progress.updated)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .map(Time),
    }
}

pub(super) fn display(phase: Reason, progress: Option<&status::Progress>, over: bool) -> Display {
    let metric = |name: &str| progress.and_then(|progress| progress.metrics.get(name).cloned());
    Display {
        phase: Some(phase.as_str().into()),
        progress: progress.filter(|_| !over).map(|progress| format!("{}%", progress.percent)),
        items: progress.map(|progress| format!("{}/{}", progress.current_step, progress.total_steps)),
        loss: metric("loss"),
        margin: metric("rewards/margins"),
        eta: progress
            .filter(|_| !over)
            .and_then(|progress| progress.estimated_remaining_seconds)
            .map(duration),
    }
}

/// A metric as people read it: three significant digits, small numbers in powers of ten.
#[must_use]
pub fn metric(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

/// A duration as `kubectl` writes it: the two largest units.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) if minutes < 10 => format!("{minutes}m{}s", seconds % 60),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}
