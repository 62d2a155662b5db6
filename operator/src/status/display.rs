//! What people read: progress, and the columns of `kubectl get`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use stic_contract::{Progress, StepName};
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

/// What turns stage 1's training steps into pairs, which is what its column counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub size: u64,
    pub all: u64,
    pub epochs: u64,
}

pub(super) fn display(
    phase: Reason,
    progress: Option<&status::Progress>,
    batch: Option<Batch>,
    over: bool,
) -> Display {
    let metric = |name: &str| progress.and_then(|progress| progress.metrics.get(name).cloned());
    Display {
        phase: Some(phase.as_str().into()),
        progress: progress.filter(|_| !over).map(|progress| format!("{}%", progress.percent)),
        items: progress.map(|progress| items(progress, batch)),
        loss: metric("loss"),
        margin: metric("rewards/margins"),
        eta: progress
            .filter(|_| !over)
            .and_then(|progress| progress.estimated_remaining_seconds)
            .map(duration),
    }
}

fn items(progress: &status::Progress, batch: Option<Batch>) -> String {
    match batch {
        Some(Batch { size, all, epochs }) if progress.step == StepName::Train => {
            let all = all * epochs;
            format!("{}/{all}", (progress.current_step * size).min(all))
        }
        _ => format!("{}/{}", progress.current_step, progress.total_steps),
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

/// A duration as `kubectl` writes it: of the smaller unit as long as there are few of the larger, and no zero.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{smaller}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_those_of_kubectl() {
        // From the tests of HumanDuration in k8s.io/apimachinery.
        let hour = 3600;
        let day = 24 * hour;
        for (seconds, shown) in [
            (1, "1s"),
            (70, "70s"),
            (190, "3m10s"),
            (70 * 60, "70m"),
            (47 * hour, "47h"),
            (49 * hour, "2d1h"),
            (8 * day + 2 * hour, "8d"),
            (600 * day, "600d"),
            (120, "2m"),
            (3 * hour, "3h"),
            (3 * hour + 60, "3h1m"),
            (2 * day, "2d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
