//! Everything that is known of a run when it is decided what to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use stic_contract::{ExitCode, RunConfig, RunIdentity, StepName, StepResult};
use stic_crds::status::{ActiveTime, Interruptions};
use stic_crds::{Reason, RunStatus};

use crate::refusal::Refusal;
use crate::validated::Validated;

/// Why a trainer ended that the kernel killed.
pub(crate) const RAN_OUT_OF_MEMORY: &str = "it ran out of memory and was killed";

/// What decisions and statuses are computed from.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The identity of the run, with the rerun that is carried out.
    pub run: RunIdentity,
    /// The generation of the spec.
    pub generation: i64,
    /// `spec.rerun` and `spec.retry`.
    pub requested: Requested,
    /// The last status of this rerun; the default if there is none yet.
    pub previous: RunStatus,
    /// `None` if that status says how this rerun ended, which is final: nothing depends on the spec any more.
    pub validated: Option<Result<Validated, Refusal>>,
    pub steps: Steps,
    /// Steps with a pod that has not ended yet, as far as the watch of pods knows.
    pub running_pods: BTreeSet<StepName>,
    /// The Job that has not ended, on a cluster.
    pub open_job: Option<OpenJob>,
    /// Whether a Job is complete and the result of one of its pods has not arrived yet.
    pub result_pending: bool,
    /// What only the API server knows.
    pub facts: Facts,
    pub now: Time,
}

/// What the spec says about running again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requested {
    pub rerun: u32,
    pub retry: u32,
}

/// The steps that were started.
pub type Steps = BTreeMap<StepName, StepSnapshot>;

/// A step that was started.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSnapshot {
    /// How many pods were started for it, including restarts by Kubernetes.
    pub attempts: u32,
    pub outcome: StepOutcome,
    /// The Job of its last launch, on a cluster.
    pub job: Option<JobRef>,
    /// How often its pods exited in order to be resumed.
    pub interruptions: Option<Interruptions>,
    /// The Kueue Workload of its Job, if it is known.
    pub workload: Option<String>,
    /// Whether the operator itself deactivated that Workload, so that Kueue does not admit it.
    pub workload_held: bool,
    /// How many of its launches no longer count against the limit of retries.
    pub uncounted: u32,
    /// How many units were done when its Job was created.
    pub progress_at_launch: Option<u64>,
    /// Whether more units are done than when its Job was created.
    pub has_progressed: bool,
    /// Why its last pod ended that did not succeed.
    pub last_failure: Option<String>,
}

/// A Job of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRef {
    pub name: String,
    pub uid: String,
    /// The number of the launch, from 1.
    pub launch: u32,
}

/// The Job that has not ended, as far as it follows changes of its run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenJob {
    /// Whether Kueue admits it, so that its Workload is to be changed instead of the Job.
    pub queued: bool,
    pub suspended: bool,
    /// Whether the operator itself suspended it.
    pub held: bool,
    /// Whether it is queued because its run named a queue, and not by Kueue itself.
    pub queued_by_run: bool,
    /// Whether another controller than that of Kubernetes runs it, which is fixed.
    pub delegated: bool,
    /// Whether `spec.pod` has changed since it was created.
    pub outdated: bool,
    /// How often Kubernetes retries each of its pods.
    pub retry_limit: Option<u32>,
    /// Whether the trainer works in none of its pods, so that replacing it loses no work.
    pub idle: bool,
    /// Kueue's labels on it that say where it waits.
    pub queue_labels: BTreeMap<String, String>,
    /// `spec.activeDeadlineSeconds` of the run that its deadline was computed from.
    pub deadline_of_run: Option<u32>,
    /// When it was started or resumed; absent while it is suspended.
    pub started: Option<Time>,
}

/// The outcome of a step so far.
#[derive(Debug, Clone, PartialEq)]
pub enum StepOutcome {
    /// It was started, and none of its containers has run yet.
    Starting,
    Running,
    /// It was started, but something keeps all of it, or a part, from running. The reason is the step's own phase if the
    /// rest of it runs.
    Waiting {
        reason: Reason,
        message: String,
    },
    /// It is complete; if it is sharded, every shard is ([`merge`]).
    Succeeded(Box<StepResult>),
    Failed {
        reason: Reason,
        message: String,
        /// Whether it was retried as often as allowed before this was observed.
        exhausted: bool,
    },
}

/// Facts that cost a request each. They are fetched only when a decision needs them; `None` is a fact
/// that was not fetched.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The run config that the run started with, if it can be read.
    pub started_with: Option<Option<Box<RunConfig>>>,
    /// Whether the object that the watch delivered is the one that the API server has.
    pub is_newest: Option<bool>,
    /// Whether every pod of an earlier launch of the step to start has ended.
    pub pods_ended: Option<bool>,
}

impl Facts {
    /// The facts of a run without a cluster: nothing but this process starts its steps.
    #[must_use]
    pub const fn local() -> Self {
        Self { started_with: Some(None), is_newest: Some(true), pods_ended: Some(true) }
    }
}

impl Snapshot {
    /// A run of which no step was started. `recorded` is the last status, which may be that of an earlier rerun.
    /// `validate` is called with the last status of this rerun, and only if the run has not ended.
    #[must_use]
    pub fn new(
        run: RunIdentity,
        generation: i64,
        recorded: &RunStatus,
        now: Time,
        validate: impl FnOnce(&RunStatus) -> Result<Validated, Refusal>,
    ) -> Self {
        // Nothing of an earlier rerun is carried over.
        let previous = if recorded.rerun == run.rerun { recorded.clone() } else { RunStatus::default() };
        Self {
            validated: previous.succeeded().is_none().then(|| validate(&previous)),
            requested: Requested { rerun: run.rerun, retry: previous.retry },
            run,
            generation,
            previous,
            steps: Steps::new(),
            running_pods: BTreeSet::new(),
            open_job: None,
            result_pending: false,
            facts: Facts::default(),
            now,
        }
    }

    /// A run that is executed without a cluster. How an earlier command ended does not matter: running the command again
    /// requests another try.
    #[must_use]
    pub fn local(run: &Validated, generation: i64, recorded: &RunStatus, now: Time) -> Self {
        let validated = Ok(run.clone());
        let snapshot = Self::new(run.run.clone(), generation, recorded, now, |_| validated.clone());
        Self { validated: Some(validated), facts: Facts::local(), ..snapshot }
    }

    /// The time until the deadline of the run, zero once it has passed; absent without a deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let limit = self.valid()?.operation.active_deadline_seconds?;
        let ActiveTime { seconds, since } = self.active_time();
        let now = since.map_or(SignedDuration::ZERO, |since| self.now.0.duration_since(since.0));
        let before = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        let left = SignedDuration::from_secs(i64::from(limit)).saturating_sub(before.saturating_add(now));
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }

    /// The time in which the run could work so far.
    #[must_use]
    pub fn active_time(&self) -> ActiveTime {
        let previous = &self.previous;
        previous.active_time.clone().unwrap_or_else(|| {
            // An earlier version of the operator counted from the start.
            let waits = previous.reason().is_some_and(Reason::pauses_deadline);
            ActiveTime { seconds: 0, since: previous.start_time.clone().filter(|_| !waits) }
        })
    }

    /// Whether the spec suspends the run.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.valid().is_some_and(|run| run.operation.suspend)
    }

    /// The run, if its spec can be carried out.
    #[must_use]
    pub fn valid(&self) -> Option<&Validated> {
        self.validated.as_ref()?.as_ref().ok()
    }
}

impl StepSnapshot {
    /// A step without anything that only a cluster has.
    #[must_use]
    pub const fn new(attempts: u32, outcome: StepOutcome) -> Self {
        Self {
            attempts,
            outcome,
            job: None,
            interruptions: None,
            workload: None,
            workload_held: false,
            uncounted: 0,
            progress_at_launch: None,
            has_progressed: false,
            last_failure: None,
        }
    }

    /// How often the step was launched.
    #[must_use]
    pub fn launches(&self) -> u32 {
        self.job.as_ref().map_or(self.attempts, |job| job.launch)
    }
}

impl StepOutcome {
    /// The outcome of a trainer that ended with `exit`.
    #[must_use]
    pub const fn failed(exit: ExitCode, message: String) -> Self {
        Self::Failed { reason: Reason::of_exit(exit), message, exhausted: false }
    }

    /// Whether the step has not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Waiting { .. })
    }
}

/// Why a step does not run while its run is suspended.
#[must_use]
pub fn suspended_message(step: StepName) -> String {
    format!("step {step} is suspended; set spec.suspend to false to resume it")
}

/// The results of all shards of a step as one: counts are summed, and what all of them agree on is taken from the first.
#[must_use]
pub fn merge(results: impl IntoIterator<Item = StepResult>) -> Option<StepResult> {
    results.into_iter().reduce(|mut all, one| {
        if let (Some(all), Some(one)) = (&mut all.items, one.items) {
            all.total += one.total;
            all.done += one.done;
            all.skipped += one.skipped;
        }
        for artifact in one.artifacts {
            if !all.artifacts.contains(&artifact) {
                all.artifacts.push(artifact);
            }
        }
        all.shards = all.shards.or(one.shards);
        all.inputs = all.inputs.or(one.inputs);
        all.message = all.message.or(one.message);
        all
    })
}
