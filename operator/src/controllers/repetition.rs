//! Running again: from scratch (`spec.rerun`), or with what is on disk (`spec.retry`).

use stic_contract::RunIdentity;
use stic_crds::status::StepState;
use stic_crds::{ConditionType, RunStatus};

use super::observe::recorded_job;
use crate::snapshot::Requested;

/// The rerun to carry out. Only raising `spec.rerun` starts one: after it was lowered, as by a revert in git, raising it
/// again by one is enough.
pub(super) fn rerun(recorded: &RunStatus, requested: Requested) -> u32 {
    if requested.rerun > recorded.seen_rerun() {
        requested.rerun.max(recorded.rerun + 1)
    } else {
        recorded.rerun
    }
}

/// The status of a failed run that is continued, as if it had not ended; `None` if no retry was requested.
pub(super) fn continued(run: &RunIdentity, recorded: &RunStatus, requested: Requested) -> Option<RunStatus> {
    let failed = recorded.succeeded() == Some(false) && recorded.rerun == run.rerun;
    if !failed || requested.retry <= recorded.retry {
        return None;
    }
    let mut status = recorded.clone();
    status.conditions.retain(|condition| condition.type_ != ConditionType::Succeeded.as_str());
    status.completion_time = None;
    for step in &mut status.steps {
        if matches!(step.state, StepState::Succeeded | StepState::Reused) {
            continue;
        }
        if let Some(job) = recorded_job(run, step) {
            step.uncounted_launches = step.uncounted_launches.max(job.launch);
        }
        step.state = StepState::Pending;
        step.completion_time = None;
        step.interruptions = None;
        step.message = None;
        step.last_problem = None;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stic_contract::{RunKind, StepName};

    use crate::build::names::{self, LaunchId};

    fn run() -> RunIdentity {
        RunIdentity {
            kind: RunKind::StageOneRun,
            namespace: "n".into(),
            name: "a".into(),
            uid: "u".into(),
            rerun: 2,
        }
    }

    #[test]
    fn only_raising_rerun_requests_one_even_after_it_was_lowered() {
        let recorded = |rerun: u32, observed_rerun: Option<u32>| RunStatus {
            rerun,
            observed_rerun,
            ..RunStatus::default()
        };
        let next = |recorded: &RunStatus, spec: u32| rerun(recorded, Requested { rerun: spec, retry: 0 });
        assert_eq!(next(&RunStatus::default(), 0), 0);
        assert_eq!(next(&RunStatus::default(), 5), 5);
        assert_eq!(next(&recorded(5, None), 0), 5, "lowered");
        assert_eq!(next(&recorded(5, Some(0)), 0), 5, "it stays lowered");
        assert_eq!(next(&recorded(5, Some(0)), 1), 6, "raised again");
        assert_eq!(next(&recorded(5, Some(5)), 7), 7);
    }

    #[test]
    fn a_retry_continues_a_failed_run_with_a_new_budget() {
        let job = names::launch(&run(), LaunchId { step: StepName::Generate, number: 3 });
        let status: RunStatus = serde_json::from_value(json!({
            "rerun": 2, "completionTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Succeeded", "status": "False", "reason": "StorageFailed", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "steps": [
                {"name": "prepare", "state": "Succeeded", "jobName": "p", "jobUID": "1"},
                {"name": "generate", "state": "Failed", "jobName": job, "jobUID": "2", "message": "disk full"},
            ],
        }))
        .expect("a status");
        let requested = |retry: u32| Requested { rerun: 2, retry };
        assert_eq!(continued(&run(), &status, requested(0)), None);
        let next = continued(&run(), &status, requested(1)).expect("it is continued");
        assert_eq!((next.succeeded(), next.completion_time.is_none()), (None, true));
        assert_eq!(next.steps[0], status.steps[0], "what is complete stays so");
        assert_eq!((next.steps[1].uncounted_launches, next.steps[1].state), (3, StepState::Pending));
        let observed = RunStatus { retry: 1, ..status };
        assert_eq!(continued(&run(), &observed, requested(1)), None, "once");
    }
}
