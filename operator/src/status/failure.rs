//! The status of a run whose reconciliation fails again and again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use stic_crds::status::Display;
use stic_crds::{ConditionType, Reason, RunStatus};

/// `previous` with conditions that carry the failure. Absent if it says so already, or if the run has ended.
#[must_use]
pub fn with_failure(previous: &RunStatus, generation: i64, message: &str, now: &Time) -> Option<RunStatus> {
    let known = previous.condition(ConditionType::Succeeded);
    let is_known = known.is_some_and(|known| {
        known.reason == Reason::ReconcileFailed.as_str()
            && without_digits(&known.message) == without_digits(message)
    });
    if is_known || previous.succeeded().is_some() {
        return None;
    }
    // What was not observed is not claimed: a generation is acknowledged by a reconciliation that succeeds.
    let generation = if previous.conditions.is_empty() { generation } else { previous.observed_generation };
    let condition = |kind: ConditionType| {
        let before = previous.condition(kind);
        let (status, reason, message) = match kind {
            ConditionType::Succeeded => ("Unknown", Reason::ReconcileFailed, message),
            ConditionType::Reconciling => ("True", Reason::ReconcileFailed, message),
            ConditionType::Stalled => {
                ("False", Reason::ReconcileFailed, "the run is not stalled: it is tried again")
            }
            ConditionType::InputsReady | ConditionType::Suspended => {
                if let Some(before) = before {
                    return before.clone();
                }
                ("Unknown", Reason::ReconcileFailed, "not known yet")
            }
        };
        let since =
            before.filter(|before| before.status == status).map(|before| &before.last_transition_time);
        Condition {
            type_: kind.as_str().into(),
            status: status.into(),
            reason: reason.as_str().into(),
            message: message.into(),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or(now).clone(),
        }
    };
    Some(RunStatus {
        observed_generation: generation,
        conditions: ConditionType::ALL.iter().copied().map(condition).collect(),
        start_time: previous.start_time.clone().or_else(|| Some(now.clone())),
        display: Some(Display {
            phase: Some(Reason::ReconcileFailed.display()),
            ..previous.display.clone().unwrap_or_default()
        }),
        ..previous.clone()
    })
}

/// Ports and durations differ at each attempt. A status that followed them would be written, and so reconciled, for ever.
fn without_digits(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_written_once_and_never_over_the_end_of_a_run() {
        let now = Time("2026-11-26T12:00:00Z".parse().expect("a time"));
        let failed = with_failure(&RunStatus::default(), 3, "dial tcp: port 4711", &now).expect("it is new");
        assert_eq!(failed.conditions.len(), ConditionType::ALL.len());
        assert!(failed.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
        assert_eq!((failed.phase(), failed.succeeded()), (Some("ReconcileFailed"), None));
        assert_eq!(with_failure(&failed, 4, "dial tcp: port 4712", &now), None);
        let shown = failed.display.as_ref().and_then(|display| display.phase.as_deref());
        assert_eq!(shown, Some("Waiting (ReconcileFailed)"));
        let other = with_failure(&failed, 4, "webhook down", &now).expect("another failure");
        assert_eq!(other.observed_generation, 3, "the new spec was not acted upon");
        let mut ended = other;
        ended.conditions[0].status = "True".into();
        assert_eq!(with_failure(&ended, 4, "cannot delete Jobs", &now), None);
    }
}
