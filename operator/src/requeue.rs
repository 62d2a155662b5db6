//! When a run is reconciled again although no watch reported a change.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stic_crds::RunStatus;
use stic_crds::status::StepState;

use crate::decision::Verdict;
use crate::snapshot::Snapshot;

/// For what no watch reports, such as a raised quota or a node that has come back.
pub const POLL: Duration = Duration::from_secs(15);
/// For a result that is about to arrive.
const RESULT: Duration = Duration::from_secs(1);
/// In case a watch ever loses an event.
const RESYNC: Duration = Duration::from_secs(600);
/// The longest time between two reads of a running step's progress, unless the setting is longer.
const SLOWEST_PROGRESS: Duration = Duration::from_secs(60);

/// The time until a run that has not ended is reconciled again. `status` is the one that was just reported.
#[must_use]
pub fn interval(
    snapshot: &Snapshot,
    verdict: &Verdict,
    status: &RunStatus,
    progress_interval: Duration,
) -> Duration {
    let running = snapshot.open_job.is_some() && snapshot.steps.values().any(|step| step.outcome.is_open());
    let wait = match verdict {
        Verdict::Waiting { poll: true, .. } => POLL,
        _ if snapshot.result_pending => RESULT,
        _ if running => progress(progress_interval, status, &snapshot.now),
        _ => RESYNC,
    };
    snapshot.time_left().map_or(wait, |left| wait.min(left.max(Duration::from_secs(1))))
}

/// The time until the progress of a running step is read again: `interval`, or a hundredth of the time that it has run
/// where that is longer. Each read leads to a write, and one percent of a long step takes minutes.
fn progress(interval: Duration, status: &RunStatus, now: &Time) -> Duration {
    let running = status.steps.iter().find(|step| step.state == StepState::Running);
    let elapsed = running
        .and_then(|step| step.start_time.as_ref())
        .and_then(|start| Duration::try_from(now.0.duration_since(start.0)).ok())
        .unwrap_or_default();
    (elapsed / 100).clamp(interval, interval.max(SLOWEST_PROGRESS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    #[test]
    fn progress_of_a_long_step_is_read_less_often() {
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
        assert_eq!(
            progress(rare, &status, &Time(Timestamp::now())),
            rare,
            "never more often than the setting"
        );
    }
}
