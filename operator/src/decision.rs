//! What can be decided about a run.

use std::collections::BTreeMap;
use std::time::Duration;

use stic_contract::{Artifact, RunConfig, StepName};
use stic_crds::Reason;
use stic_crds::conditions::ReasonKind;

use crate::build::names::LaunchId;
use crate::validated::Validated;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The run has ended and never starts again; `decide::cleanup` says what becomes of its children.
    CleanUp,
    /// The watch is behind the API server: wait for what it delivers next.
    AwaitWatch,
    /// Start a step.
    Launch(Box<Launch>),
    /// Delete the Job of a step, which is then launched again as the run is now. The text says what has changed.
    Replace(StepName, &'static str),
    /// Start nothing, and report this.
    Report { verdict: Verdict, changes: JobChanges },
}

/// What to change about the Job that has not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobChanges {
    pub deadline: Option<JobDeadline>,
    pub suspension: Option<Suspension>,
    /// Kueue's labels to change, so that it waits in another queue.
    pub queue_labels: BTreeMap<String, String>,
}

/// When Kubernetes ends a Job, even if the operator does not run; never, if the run has no deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobDeadline {
    /// `spec.activeDeadlineSeconds` of the run.
    pub of_run: Option<u32>,
    /// Seconds from the start of the Job.
    pub seconds: Option<u32>,
}

/// Facts that are needed to decide, each of which costs a request: see [`Facts`](crate::snapshot::Facts).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NeededFacts {
    pub started_with: bool,
    pub is_newest: bool,
    /// Whether the pods of earlier launches of this step have ended.
    pub pods_ended: Option<StepName>,
}

/// The state of a run, as its status reports it.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The first Job of a step, or its next one, is about to be created.
    Launching(StepName),
    Waiting {
        reason: Reason,
        message: String,
        /// Whether the run waits for something that no watch reports, so that it is reconciled again soon.
        poll: bool,
    },
    /// Every artifact is complete, in the order in which the steps create them.
    Succeeded {
        artifacts: Vec<Artifact>,
    },
    Failed {
        reason: Reason,
        message: String,
    },
}

/// A step to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub id: LaunchId,
    /// How many launches of the step do not count against the limit of retries.
    pub uncounted: u32,
    /// The run, pinned to what it started with if it is under way.
    pub run: Validated,
    pub config: RunConfig,
    /// The number of pods that run side by side.
    pub shards: u32,
    /// Seconds after which Kubernetes ends the Job.
    pub deadline_seconds: Option<u32>,
}

/// A change to the Job that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    Suspend,
    Resume,
}

/// What becomes of the children of a run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    Keep,
    DeleteAfter(Duration),
    DeleteNow,
}

impl Verdict {
    /// A run that waits. Trouble that the user has to fix is usually outside of what the watches report.
    pub(crate) fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        // No watch reports what Kueue says about a Workload.
        let poll = reason.classification().kind == ReasonKind::Trouble || reason == Reason::Queued;
        Self::Waiting { reason, message: message.into(), poll }
    }

    /// A step that has a Job which has not ended.
    #[must_use]
    pub fn running(step: StepName) -> Self {
        Self::waiting(Reason::of_step(step), format!("step {step} is running"))
    }

    /// A launch that did not come about: for good, or until what keeps it from starting changes.
    #[must_use]
    pub fn blocked(reason: Reason, message: String) -> Self {
        match reason.classification().kind {
            ReasonKind::Failed => Self::Failed { reason, message },
            _ => Self::Waiting { reason, message, poll: true },
        }
    }

    /// Whether the run has ended.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. })
    }
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self::Report { verdict, changes: JobChanges::default() }
    }
}
