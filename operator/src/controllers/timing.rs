//! When a run is looked at again although nothing reported a change.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use stic_crds::RunStatus;
use stic_crds::status::StepState;

use crate::validated::Validated;

/// What nobody reports: a claim that was made, a quota that was raised, a node that came back.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// A result that is on its way.
pub(super) const RESULT: Duration = Duration::from_secs(1);
/// Should a watch ever lose something, an unfinished run is looked at this often.
pub(super) const RESYNC: Duration = Duration::from_secs(600);
/// A step that runs for hours is asked no less often than this.
const SLOWEST_PROGRESS: Duration = Duration::from_secs(60);

/// The time until a running step is asked for its progress again: `interval`, and a hundredth of the time it has run so
/// far where that is longer. Each answer is a write, and a percent of a long step takes minutes.
pub(super) fn progress(interval: Duration, status: &RunStatus, now: &Time) -> Duration {
    let running = status.steps.iter().find(|step| step.state == StepState::Running);
    let ran = running
        .and_then(|step| step.start_time.as_ref())
        .and_then(|start| Duration::try_from(now.0.duration_since(start.0)).ok())
        .unwrap_or_default();
    (ran / 100).clamp(interval, interval.max(SLOWEST_PROGRESS))
}

/// The time until a run's deadline.
pub(super) fn left(run: &Validated, before: &RunStatus, now: &Time) -> Option<Duration> {
    let limit = run.operation.active_deadline_seconds?;
    let spent =
        before.start_time.as_ref().map_or(SignedDuration::ZERO, |start| now.0.duration_since(start.0));
    let left = SignedDuration::from_secs(i64::from(limit)) - spent;
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn a_long_step_is_asked_less_often() {
        let start = "2026-01-01T00:00:00Z";
        let status: RunStatus = serde_json::from_value(
            json!({"steps": [{"name": "train", "state": "Running", "startTime": start}]}),
        )
        .expect("a status");
        let interval = Duration::from_secs(5);
        let after = |seconds: i64| {
            let start: Timestamp = start.parse().expect("a time");
            progress(interval, &status, &Time(start + SignedDuration::from_secs(seconds))).as_secs()
        };
        assert_eq!([after(-5), after(0), after(500), after(1000), after(36_000)], [5, 5, 5, 10, 60]);
        let rare = Duration::from_secs(90);
        assert_eq!(progress(rare, &status, &Time(Timestamp::now())), rare, "a setting is never undercut");
    }
}
