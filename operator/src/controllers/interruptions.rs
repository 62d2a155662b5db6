//! Interruptions of a step: pods that exited in order to be resumed.

use stic_crds::Reason;
use stic_crds::status::Interruptions;

use crate::snapshot::StepOutcome;

/// A step that was interrupted this often without progress in between is not resumed again.
const LIMIT: u32 = 3;

/// Adds the interruptions of a step up to `total`, the number that its Job has now, when its progress had reached
/// `reached`, if that is known. Those without progress are counted from the last one that came after progress.
pub(super) fn count(
    before: Option<Interruptions>,
    total: u32,
    reached: Option<u64>,
) -> Option<Interruptions> {
    let before = before.unwrap_or_default();
    if total <= before.total {
        return (before.total > 0).then_some(before);
    }
    // Where progress cannot be read, every interruption would look like one without progress.
    let Some(reached) = reached else { return Some(Interruptions { total, ..before }) };
    let new = total - before.total;
    let without_progress =
        if before.total > 0 && reached > before.at { new } else { before.without_progress + new };
    Some(Interruptions { total, without_progress, at: reached })
}

/// The failure of a step that is interrupted again and again without progress. `device_failure` is how its GPU failed, if that
/// was the last interruption.
pub(super) fn failure(
    interruptions: Option<Interruptions>,
    device_failure: Option<&str>,
) -> Option<StepOutcome> {
    let repeated = interruptions.is_some_and(|count| count.without_progress >= LIMIT);
    let (reason, message) = match device_failure {
        Some(failure) => (
            Reason::DeviceFailed,
            format!(
                "it ended {LIMIT} times without progress in between, the last time on {failure}; check that node, or exclude it with spec.pod, then raise spec.retry"
            ),
        ),
        None => (
            Reason::Interrupted,
            format!(
                "it was interrupted {LIMIT} times without progress in between; see the log of its last pod for what interrupts it, then raise spec.retry"
            ),
        ),
    };
    repeated.then_some(StepOutcome::Failed { reason, exhausted: true, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interruptions_are_counted_until_there_is_progress() {
        let known = |before, total, reached| count(before, total, Some(reached));
        let first = known(None, 1, 0);
        assert_eq!(first, Some(Interruptions { total: 1, without_progress: 1, at: 0 }));
        assert_eq!(known(first, 1, 50), first, "there is no new interruption");
        let second = known(first, 2, 0);
        let third = known(second, 3, 0);
        assert_eq!(third.map(|count| count.without_progress), Some(3));
        assert!(failure(second, None).is_none() && failure(third, None).is_some());
        let device = failure(third, Some("node a: it fell off the bus"));
        assert!(
            matches!(&device, Some(StepOutcome::Failed { reason: Reason::DeviceFailed, exhausted: true, message })
                if message.contains("node a: it fell off the bus")),
            "{device:?}"
        );
        let moved = known(second, 3, 10);
        assert_eq!(moved, Some(Interruptions { total: 3, without_progress: 1, at: 10 }));
        assert_eq!(known(None, 0, 10), None);
        let unknown = (3..9).fold(second, |before, total| count(before, total, None));
        assert_eq!(unknown, Some(Interruptions { total: 8, without_progress: 2, at: 0 }));
        assert!(failure(unknown, None).is_none(), "it may have made progress");
        assert!(failure(known(unknown, 9, 0), None).is_some());
    }
}
