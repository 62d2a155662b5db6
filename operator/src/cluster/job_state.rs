//! The state of a step, computed from its Job and pods: pure functions of whole objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stic_contract::{ExitCode, StepName, StepResult};
use stic_crds::Reason;

use super::objects::{Job, JobEnd, Pod, Terminated};
use super::trainer_exit::{
    self, eviction, exit_code, exited_to_be_resumed, failure_message, index, other_failure, parse_result,
    rejection, runs, succeeded, terminated,
};
use super::unfinished_job::unfinished;
use crate::snapshot::{StepOutcome, merge};

/// The state of a Job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobState {
    pub reading: Reading,
    /// The largest number of pods that any index had.
    pub attempts: u32,
    /// The largest number of pods of any index that exited in order to be resumed. Disruptions from outside are not counted.
    pub interrupted: u32,
    /// Why the last pod ended that did not succeed.
    pub last_failure: Option<String>,
    /// Whether that was because its GPU failed.
    pub device_failed: bool,
}

/// The outcome of a step, as far as its Job and pods determine it.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    Outcome(StepOutcome),
    /// The Job is complete, but the pod with the result of this index is unknown.
    ResultMissing {
        index: u32,
    },
}

/// Reads a Job of `step`.
#[must_use]
pub fn read(step: StepName, job: &Job, pods: &[Arc<Pod>], now: &Time) -> JobState {
    let shards = job.spec.completions.unwrap_or(1);
    let shards = u32::try_from(shards).unwrap_or(1);
    let mut by_index: BTreeMap<u32, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        by_index.entry(index(pod)).or_default().push(pod);
    }
    let most = |counts: &dyn Fn(&Pod) -> bool| {
        let of_index = by_index.values().map(|pods| pods.iter().filter(|pod| counts(pod)).count());
        u32::try_from(of_index.max().unwrap_or_default()).unwrap_or(u32::MAX)
    };
    let reading = match job.end() {
        JobEnd::Complete => complete(step, &by_index, shards),
        JobEnd::Failed {
            reason: "BackoffLimitExceeded" | "FailedIndexes" | "MaxFailedIndexesExceeded",
            ..
        } if let Some(refused) = refused(job, &by_index) => Reading::Outcome(refused),
        JobEnd::Failed { reason, message } => Reading::Outcome(failed(step, shards, pods, reason, message)),
        JobEnd::Open => Reading::Outcome(
            failed_index(step, job, shards, pods).unwrap_or_else(|| unfinished(step, job, pods, now)),
        ),
    };
    JobState {
        reading,
        attempts: most(&|_| true).max(1),
        interrupted: most(&exited_to_be_resumed),
        last_failure: trainer_exit::last_failure(step, pods),
        device_failed: trainer_exit::device_failed(pods),
    }
}

fn complete(step: StepName, pods: &BTreeMap<u32, Vec<&Pod>>, shards: u32) -> Reading {
    let mut results = Vec::new();
    for index in 0..shards {
        let Some(ended) = pods.get(&index).into_iter().flatten().find_map(|pod| succeeded(pod)) else {
            return Reading::ResultMissing { index };
        };
        match parse_result(step, ended) {
            Ok(result) => results.push(result),
            Err(error) => {
                return Reading::Outcome(StepOutcome::Failed {
                    reason: Reason::ResultIncomplete,
                    exhausted: true,
                    message: format!(
                        "cannot read the result of index {index}: {error}; use the trainer image of the operator's version"
                    ),
                });
            }
        }
    }
    match merge(results) {
        Some(StepResult { shards: Some(written), .. }) if written.shards > shards => {
            Reading::Outcome(StepOutcome::Failed {
                reason: Reason::ResultIncomplete,
                exhausted: true,
                message: format!(
                    "its Job has {shards} completions, but the run has {} shards: something changed the Job",
                    written.shards
                ),
            })
        }
        Some(result) => Reading::Outcome(StepOutcome::Succeeded(Box::new(result))),
        None => Reading::ResultMissing { index: 0 },
    }
}

/// The failure of a queued step of which an index has failed for good. Kueue may require that all pods of a Job are ready,
/// and would evict those of the other indexes again and again.
fn failed_index(step: StepName, job: &Job, shards: u32, pods: &[Arc<Pod>]) -> Option<StepOutcome> {
    let failed_for_good = job.is_queued().then(|| job.status.failed_indexes().next()).flatten()?;
    let of_index: Vec<Arc<Pod>> = pods.iter().filter(|pod| index(pod) == failed_for_good).cloned().collect();
    let message = format!("index {failed_for_good} has failed for good, and its pods are gone");
    Some(failed(step, shards, &of_index, "", &message))
}

/// Why a Job failed: the last pod that failed by itself explains it best.
fn failed(step: StepName, shards: u32, pods: &[Arc<Pod>], reason: &str, message: &str) -> StepOutcome {
    if reason == "DeadlineExceeded" {
        return StepOutcome::Failed {
            reason: Reason::DeadlineExceeded,
            // The operator could not raise it in time if that of the run is not over.
            exhausted: false,
            message:
                "Kubernetes ended its Job at its deadline; raise spec.activeDeadlineSeconds and spec.retry"
                    .into(),
        };
    }
    let mut failures: Vec<(&Pod, &Terminated)> = pods
        .iter()
        .filter_map(|pod| Some((pod.as_ref(), terminated(pod)?)))
        .filter(|(_, ended)| ended.exit_code != i32::from(ExitCode::Done.code()))
        .collect();
    // A failure that ended the Job explains more than one that came later.
    failures.sort_by_key(|(_, ended)| (exit_code(ended).fails_job(), ended.finished_at.clone()));
    let (reason, message) = match failures.last() {
        Some((pod, ended)) => {
            let message = failure_message(step, pod, ended);
            let of_index = (shards > 1).then(|| format!("index {} of {shards}: {message}", index(pod)));
            (trainer_exit::reason(ended), of_index.unwrap_or(message))
        }
        None => match pods.iter().rev().find_map(|pod| other_failure(pod)) {
            Some(message) => {
                return StepOutcome::Failed { reason: Reason::ContainerFailed, exhausted: true, message };
            }
            None => why_pods_are_gone(pods, message),
        },
    };
    // The Job has used up the retries; another Job would multiply them.
    StepOutcome::Failed { reason, exhausted: true, message }
}

/// Why a Job failed of whose pods no container is known to have failed.
fn why_pods_are_gone(pods: &[Arc<Pod>], message: &str) -> (Reason, String) {
    match pods.iter().rev().find_map(|pod| eviction(pod)) {
        Some(message) => (Reason::TrainerFailed, message),
        // The pods are gone. The message of the Job has the exit code of the pod that made it fail.
        None => {
            let exit = exit_code_in(message).map_or(ExitCode::Bug, ExitCode::from_status);
            (Reason::of_exit(exit), message.to_owned())
        }
    }
}

/// The outcome of a Job that failed only because kubelets refused pods. Kubernetes counts those towards the limit of
/// retries, although the trainer never ran.
fn refused(job: &Job, by_index: &BTreeMap<u32, Vec<&Pod>>) -> Option<StepOutcome> {
    let last = |pods: &Vec<&Pod>| pods.iter().rev().find_map(|pod| rejection(pod));
    let failed: Vec<u32> = job.status.failed_indexes().collect();
    let mut of_failed = by_index.iter().filter(|(index, _)| failed.is_empty() || failed.contains(index));
    let message = of_failed.clone().find_map(|(_, pods)| last(pods))?;
    of_failed.all(|(_, pods)| last(pods).is_some()).then_some(())?;
    let message = format!("{message}; check the node and its device plugins");
    Some(StepOutcome::Failed { reason: Reason::PodRejected, exhausted: false, message })
}

/// The number after "exit code" in a message of the Job controller.
fn exit_code_in(message: &str) -> Option<i32> {
    let (_, rest) = message.split_once("exit code ")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The results of the indexes of a running step that are complete, and the addresses of the pods of the others.
#[must_use]
pub fn results_and_addresses(step: StepName, pods: &[Arc<Pod>]) -> (Vec<StepResult>, Vec<String>) {
    let complete = pods.iter().filter_map(|pod| succeeded(pod));
    let results = complete.filter_map(|ended| parse_result(step, ended).ok()).collect();
    let running = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| pod.status.phase.as_deref() == Some("Running") && runs(pod))
        .filter_map(|pod| pod.status.pod_ip.clone())
        .collect();
    (results, running)
}
