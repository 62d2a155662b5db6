//! Progress, and the columns of `kubectl get`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use stic_contract::{Progress, StepName};
use stic_crds::status::{self, Display};

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

/// What turns the training steps of stage 1 into pairs, which its column counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pairs {
    pub per_step: u64,
    pub count: u64,
    pub epochs: u64,
}

pub(super) fn display(
    phase: String,
    progress: Option<&status::Progress>,
    pairs: Option<Pairs>,
    ended: bool,
) -> Display {
    let metric = |name: &str| {
        let value = progress.and_then(|progress| progress.metrics.get(name))?;
        Some(value.parse().map_or_else(|_| value.clone(), metric))
    };
    Display {
        phase: Some(phase),
        progress: progress.filter(|_| !ended).map(|progress| format!("{}%", progress.percent)),
        items: progress.map(|progress| items(progress, pairs)),
        loss: metric("loss"),
        margin: metric("rewards/margins"),
        eta: progress
            .filter(|_| !ended)
            .and_then(|progress| progress.estimated_remaining_seconds)
            .map(duration),
        score: None,
        difference: None,
    }
}

fn items(progress: &status::Progress, pairs: Option<Pairs>) -> String {
    match pairs {
        Some(Pairs { per_step, count, epochs }) if progress.step == StepName::Train => {
            let all = count * epochs;
            format!("{}/{all}", (progress.current_step * per_step).min(all))
        }
        _ => format!("{}/{}", progress.current_step, progress.total_steps),
    }
}

/// A metric for people: three significant digits, and powers of ten for very small and very large numbers.
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

/// A duration as `kubectl` writes it: a smaller unit is shown only while there are few of the larger one, and never as
/// zero.
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
    fn durations_match_kubectl() {
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
