//! The conditions of a run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use stic_contract::{ArtifactKind, StepName};
use stic_crds::conditions::{InputState, ReasonKind};
use stic_crds::{ConditionType, Reason};

use crate::decision::Verdict;
use crate::snapshot::{Snapshot, StepOutcome, StepSnapshot};

/// The status, reason and message of a condition.
struct State {
    status: &'static str,
    reason: Reason,
    message: String,
}

impl State {
    fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    fn yes_or_no(yes: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(if yes { "True" } else { "False" }, reason, message)
    }
}

/// The reason of the condition Succeeded.
pub(super) fn phase(verdict: &Verdict) -> Reason {
    succeeded(verdict).reason
}

/// Every condition of a run, in the order of [`ConditionType::ALL`].
pub(super) fn conditions(snapshot: &Snapshot, verdict: &Verdict) -> Vec<Condition> {
    let now = &snapshot.now;
    let condition = |kind: ConditionType| {
        let State { status, reason, message } = state(kind, snapshot, verdict);
        let before = snapshot.previous.condition(kind).filter(|condition| condition.status == status);
        Condition {
            type_: kind.as_str().into(),
            status: status.into(),
            reason: reason.as_str().into(),
            message,
            observed_generation: Some(snapshot.generation),
            last_transition_time: before.map_or(now, |condition| &condition.last_transition_time).clone(),
        }
    };
    ConditionType::ALL.iter().copied().map(condition).collect()
}

fn state(kind: ConditionType, snapshot: &Snapshot, verdict: &Verdict) -> State {
    match kind {
        ConditionType::Succeeded => succeeded(verdict),
        ConditionType::InputsReady => inputs_ready(snapshot, verdict),
        ConditionType::Suspended => suspended(snapshot),
        ConditionType::Reconciling => reconciling(snapshot, verdict),
        ConditionType::Stalled => stalled(verdict),
    }
}

fn succeeded(verdict: &Verdict) -> State {
    match verdict {
        Verdict::Launching(step) => {
            State::new("Unknown", Reason::of_step(*step), format!("step {step} is starting"))
        }
        Verdict::Waiting { reason, message, .. } => State::new("Unknown", *reason, message),
        Verdict::Succeeded { artifacts } => {
            let message = artifacts.last().map_or_else(
                || "every step is complete".to_owned(),
                |last| {
                    let verb = if last.kind == ArtifactKind::Results { "are" } else { "is" };
                    format!("the {} {verb} at {}", last.kind.folder_prefix(), last.location)
                },
            );
            State::new("True", Reason::Succeeded, message)
        }
        Verdict::Failed { reason, message } => State::new("False", *reason, message),
    }
}

fn inputs_ready(snapshot: &Snapshot, verdict: &Verdict) -> State {
    let State { reason, message, .. } = succeeded(verdict);
    let prepare = snapshot.steps.get(&StepName::Prepare);
    let prepared = matches!(prepare, Some(StepSnapshot { outcome: StepOutcome::Succeeded(_), .. }));
    match reason.classification().inputs {
        InputState::Unavailable => State::new("False", reason, message),
        InputState::Rejected | InputState::Unaffected if prepared => {
            State::new("True", Reason::InputsReady, "every input exists and was checked")
        }
        InputState::Rejected => State::new("False", reason, message),
        InputState::Unaffected => {
            State::new("Unknown", Reason::Preparing, "step prepare has not checked the inputs yet")
        }
    }
}

fn suspended(snapshot: &Snapshot) -> State {
    if snapshot.is_suspended() {
        State::new("True", Reason::Suspended, "spec.suspend is true; set it to false to resume the run")
    } else {
        State::new("False", Reason::NotSuspended, "spec.suspend is false")
    }
}

fn reconciling(snapshot: &Snapshot, verdict: &Verdict) -> State {
    let State { reason, message, .. } = succeeded(verdict);
    let setting_up =
        !verdict.is_final() && snapshot.steps.is_empty() && !snapshot.is_suspended() && !reason.awaits_run();
    // A run that waits for a person must not look healthy, and has not failed.
    let in_trouble = !verdict.is_final() && reason.classification().kind == ReasonKind::Trouble;
    let message = match verdict {
        Verdict::Waiting { .. } if setting_up || in_trouble => message,
        _ if setting_up => "the first step is about to start".to_owned(),
        _ => "nothing is left to set up".to_owned(),
    };
    State::yes_or_no(setting_up || in_trouble, reason, message)
}

fn stalled(verdict: &Verdict) -> State {
    let State { reason, message, .. } = succeeded(verdict);
    let failed = matches!(verdict, Verdict::Failed { .. });
    State::yes_or_no(failed, reason, if failed { message } else { "the run is not stalled".to_owned() })
}
