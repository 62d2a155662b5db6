//! What to do next: a pure function of a run and of what was observed.

use std::collections::BTreeMap;

use stic_contract::pipeline::{self, StepSpec};
use stic_contract::{Artifact, ExitCode, RunConfig, StepName, StepResult};
use stic_crds::status::Interruptions;

use crate::build::run_config::{Incomplete, Made, run_config};
use crate::refusal::{Reason, Refusal};
use crate::validated::Validated;

/// What was observed of a run's steps. One that was never started is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// By step.
    pub steps: BTreeMap<StepName, StepObservation>,
}

/// What was observed of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepObservation {
    /// How often it was started: the pods of its Jobs, restarts by Kubernetes among them.
    pub attempts: u32,
    /// How it stands.
    pub outcome: StepOutcome,
    /// The Job of its last launch, on a cluster.
    pub job: Option<JobRef>,
    /// How often its pods asked to be resumed.
    pub interruptions: Option<Interruptions>,
}

/// A Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Which launch of the step it is, from 1.
    pub launch: u32,
}

impl StepObservation {
    /// What was observed of a step, Kubernetes aside.
    #[must_use]
    pub const fn new(attempts: u32, outcome: StepOutcome) -> Self {
        Self { attempts, outcome, job: None, interruptions: None }
    }

    /// How often it was launched by us.
    #[must_use]
    pub fn launches(&self) -> u32 {
        self.job.as_ref().map_or(self.attempts, |job| job.launch)
    }
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepOutcome {
    /// It runs.
    Running,
    /// It was started, but something is in the way of all of it or of a part.
    Waiting {
        /// What; the step's own phase if the rest of it runs.
        reason: Reason,
        /// What, and what to do.
        message: String,
    },
    /// It is done; of a sharded step, all indexes are ([`merge`]).
    Succeeded(Box<StepResult>),
    /// It ended otherwise.
    Failed {
        /// Why.
        reason: Reason,
        /// Whether it may be launched again, as far as the budget goes.
        retryable: bool,
        /// What it said.
        message: String,
    },
}

impl StepOutcome {
    /// A trainer that ended with `exit`.
    #[must_use]
    pub const fn failed(exit: ExitCode, message: String) -> Self {
        Self::Failed { reason: Reason::of_exit(exit), retryable: exit.is_retryable(), message }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Start a step for the first time.
    Start(Box<Launch>),
    /// Start a step again.
    Retry(Box<Launch>),
    /// Nothing for now.
    Wait {
        /// The phase.
        reason: Reason,
        /// What is awaited.
        message: String,
    },
    /// All is made.
    Done {
        /// What, upstream first.
        artifacts: Vec<Artifact>,
    },
    /// It cannot go on.
    Fail {
        /// Why.
        reason: Reason,
        /// Why, and what to do.
        message: String,
    },
}

/// A step to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The step.
    pub step: StepName,
    /// Its run config.
    pub config: RunConfig,
    /// How many indexes it has.
    pub shards: u32,
    /// Which launch this is, from 1.
    pub attempt: u32,
}

/// Decides.
#[must_use]
pub fn plan(run: &Result<Validated, Refusal>, observed: &Observed) -> Plan {
    match run {
        Ok(run) => next(run, observed),
        Err(Refusal::Wait { reason, message }) => Plan::Wait { reason: *reason, message: message.clone() },
        Err(refusal @ Refusal::Invalid { reason, .. }) => {
            Plan::Fail { reason: *reason, message: refusal.to_string() }
        }
    }
}

fn next(run: &Validated, observed: &Observed) -> Plan {
    let mut made = Made::default();
    for spec in pipeline::steps(run.run.kind) {
        let step = spec.name;
        // An artifact that an earlier step found on the volume needs no making.
        if made.artifacts.contains_key(&spec.produces) {
            continue;
        }
        match observed.steps.get(&step) {
            None => return launch(run, spec, 1, &made),
            Some(StepObservation { outcome: StepOutcome::Running, .. }) => {
                return Plan::Wait { reason: Reason::of_step(step), message: format!("step {step} runs") };
            }
            Some(StepObservation { outcome: StepOutcome::Succeeded(result), .. }) => made.add(result),
            // A queue that may not admit it is not what it waits for.
            Some(StepObservation {
                outcome: StepOutcome::Waiting { reason: Reason::Queued, .. }, ..
            }) if run.operation.suspend => {
                let message = format!("step {step} is held; set spec.suspend to false to go on");
                return Plan::Wait { reason: Reason::Suspended, message };
            }
            Some(StepObservation { outcome: StepOutcome::Waiting { reason, message }, .. }) => {
                return Plan::Wait { reason: *reason, message: message.clone() };
            }
            Some(
                seen @ StepObservation { outcome: StepOutcome::Failed { reason, retryable, message }, .. },
            ) => {
                // What was taken from outside is not the step's fault, and is made anew from what it left.
                let budget = match reason {
                    Reason::JobDeleted | Reason::ResultLost => run.operation.backoff_limit.max(3),
                    _ => run.operation.backoff_limit,
                };
                if *retryable && seen.launches() <= budget {
                    return launch(run, spec, seen.launches() + 1, &made);
                }
                return Plan::Fail { reason: *reason, message: failure(step, *reason, message) };
            }
        }
        if let Some(fail) = model_changed(run, &made) {
            return fail;
        }
    }
    // In the order in which steps make them.
    let mut artifacts = made.artifacts;
    let artifacts =
        pipeline::steps(run.run.kind).iter().filter_map(|spec| artifacts.remove(&spec.produces)).collect();
    Plan::Done { artifacts }
}

fn launch(run: &Validated, spec: &StepSpec, attempt: u32, made: &Made) -> Plan {
    if run.operation.suspend {
        let message = format!("step {} waits; set spec.suspend to false to go on", spec.name);
        return Plan::Wait { reason: Reason::Suspended, message };
    }
    let config = match run_config(run, spec.name, made) {
        Ok(config) => config,
        Err(incomplete @ Incomplete { .. }) => {
            return Plan::Fail {
                reason: Reason::ResultIncomplete,
                message: format!(
                    "{incomplete}; this is a bug of the trainer's image: use one of this operator's version"
                ),
            };
        }
    };
    let shards = if spec.sharded { run.shards } else { 1 };
    let launch = Box::new(Launch { step: spec.name, config, shards, attempt });
    if attempt == 1 { Plan::Start(launch) } else { Plan::Retry(launch) }
}

fn failure(step: StepName, reason: Reason, message: &str) -> String {
    let said = if message.is_empty() { "it left no message" } else { message };
    match reason {
        Reason::TrainerFailed => format!("step {step} failed: {said}; see the log of its last pod"),
        _ => format!("step {step} failed: {said}"),
    }
}

fn model_changed(run: &Validated, made: &Made) -> Option<Plan> {
    let (expected, found) = (run.model.digest.as_ref()?, &made.inputs.as_ref()?.model);
    (expected != found).then(|| Plan::Fail {
        reason: Reason::ModelChanged,
        message: format!(
            "the model at {} is {found}, but the adapter was trained on {expected}; restore that model, or run stage 1 on this one",
            run.model.location
        ),
    })
}

/// The results of all indexes of a step as one: counts are summed, and of what all must agree on the first counts.
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
