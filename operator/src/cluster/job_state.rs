//! What a Job and its pods say about a step: pure, from whole objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use stic_contract::{ExitCode, StepName, StepResult};

use super::objects::{INDEX, Job, Pod, Terminated};
use super::pod_trouble::trouble;
use crate::build::job::QUEUE_NAME;
use crate::plan::{StepOutcome, merge};
use crate::refusal::Reason;

/// A message that is not a result is the end of a log: this much of it is shown.
const SHOWN_CHARS: usize = 600;
/// The time the Job controller has for making pods before its events are asked for a reason.
const MAKING_PODS: SignedDuration = SignedDuration::from_secs(5);

/// What a Job and its pods say.
#[derive(Debug, Clone, PartialEq)]
pub struct JobState {
    /// How the step stands.
    pub reading: Reading,
    /// How often the index that was started most was started.
    pub attempts: u32,
    /// How often the index that asked most to be resumed asked for it, disruptions from outside not counted.
    pub interrupted: u32,
}

/// How a step stands, as far as that can be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// It is read.
    Outcome(StepOutcome),
    /// The Job is done, but a pod that said what it made is not among those seen.
    ResultMissing {
        /// Its index.
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
    let reading = match condition(job) {
        Ended::Complete => complete(step, &by_index, shards),
        Ended::Failed { reason, message } => Reading::Outcome(failed(step, shards, pods, reason, message)),
        Ended::No => Reading::Outcome(unfinished(step, job, pods, now)),
    };
    JobState { reading, attempts: most(&|_| true).max(1), interrupted: most(&asked_to_be_resumed) }
}

enum Ended<'a> {
    No,
    Complete,
    Failed { reason: &'a str, message: &'a str },
}

fn condition(job: &Job) -> Ended<'_> {
    for condition in job.status.conditions.iter().filter(|condition| condition.status == "True") {
        match condition.kind.as_str() {
            "Complete" => return Ended::Complete,
            "Failed" => {
                return Ended::Failed {
                    reason: condition.reason.as_deref().unwrap_or_default(),
                    message: condition.message.as_deref().unwrap_or_default(),
                };
            }
            _ => {}
        }
    }
    Ended::No
}

/// Whether a Job has ended.
#[must_use]
pub fn is_over(job: &Job) -> bool {
    !matches!(condition(job), Ended::No)
}

fn complete(step: StepName, pods: &BTreeMap<u32, Vec<&Pod>>, shards: u32) -> Reading {
    let mut results = Vec::new();
    for index in 0..shards {
        let Some(done) = pods.get(&index).into_iter().flatten().find_map(|pod| done(pod)) else {
            return Reading::ResultMissing { index };
        };
        match said(step, done) {
            Ok(result) => results.push(result),
            Err(unreadable) => {
                return Reading::Outcome(StepOutcome::Failed {
                    reason: Reason::ResultIncomplete,
                    retryable: false,
                    message: format!(
                        "index {index} is done, but what it reports cannot be read: {unreadable}; use the trainer's image of this operator's version"
                    ),
                });
            }
        }
    }
    match merge(results) {
        Some(result) => Reading::Outcome(StepOutcome::Succeeded(Box::new(result))),
        None => Reading::ResultMissing { index: 0 },
    }
}

/// What a terminated trainer said.
fn said(step: StepName, ended: &Terminated) -> Result<StepResult, String> {
    let message = ended.message.as_deref().unwrap_or_default();
    let result: StepResult = serde_json::from_str(message.trim())
        .map_err(|error| if message.is_empty() { "it is empty".to_owned() } else { error.to_string() })?;
    if result.step == step { Ok(result) } else { Err(format!("it is of step {}", result.step)) }
}

/// Why a Job failed: its last pod that failed by itself knows best.
fn failed(step: StepName, shards: u32, pods: &[Arc<Pod>], reason: &str, message: &str) -> StepOutcome {
    if reason == "DeadlineExceeded" {
        return StepOutcome::Failed {
            reason: Reason::DeadlineExceeded,
            retryable: false,
            message: "it did not end within spec.activeDeadlineSeconds; raise that and spec.rerun".into(),
        };
    }
    let mut culprits: Vec<(&Pod, &Terminated)> = pods
        .iter()
        .filter_map(|pod| Some((pod.as_ref(), terminated(pod)?)))
        .filter(|(_, ended)| ended.exit_code != i32::from(ExitCode::Done.code()))
        .collect();
    // What can never pass explains more than what ended later.
    culprits.sort_by_key(|(_, ended)| {
        (!ExitCode::from_status(ended.exit_code).is_retryable(), ended.finished_at.clone())
    });
    let (exit, said) = match culprits.last() {
        Some((pod, ended)) => {
            let said = words(step, ended);
            // Of several indexes it matters which one.
            let said = if shards > 1 { format!("index {} of {shards}: {said}", index(pod)) } else { said };
            (exit_code(ended), said)
        }
        None => match pods.iter().rev().find_map(|pod| evicted(pod)) {
            Some(why) => (ExitCode::Bug, why),
            // The pods are gone; the Job's own message names the exit code that ended it.
            None => (code_in(message).map_or(ExitCode::Bug, ExitCode::from_status), message.to_owned()),
        },
    };
    // The Job has spent the budget: another one would multiply it.
    StepOutcome::Failed { reason: Reason::of_exit(exit), retryable: false, message: said }
}

fn exit_code(ended: &Terminated) -> ExitCode {
    ExitCode::from_status(ended.exit_code)
}

fn words(step: StepName, ended: &Terminated) -> String {
    if ended.reason.as_deref() == Some("OOMKilled") {
        return "it was killed because memory ran out; raise spec.pod.resources.limits.memory and spec.rerun"
            .into();
    }
    let text = match said(step, ended) {
        Ok(result) => result.message,
        Err(_) => ended.message.as_deref().map(|text| tail(text.trim())).filter(|text| !text.is_empty()),
    };
    match (text, ended.exit_code) {
        // Its log ends where it was, and not with why.
        (Some(text), 137) => format!("it was killed with no time to save; the end of its log: {text}"),
        (Some(text), _) => text,
        (None, 137) => "it was killed with no time to save".into(),
        (None, code) => format!("it ended with exit code {code} and left no message"),
    }
}

fn tail(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN_CHARS {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count - SHOWN_CHARS).collect();
    format!("…{end}")
}

fn evicted(pod: &Pod) -> Option<String> {
    let reason = pod.status.reason.as_ref()?;
    Some(format!("{reason}: {}", pod.status.message.as_deref().unwrap_or("no more is known")))
}

/// The number after "exit code" in the words of the Job controller.
fn code_in(message: &str) -> Option<i32> {
    let (_, rest) = message.split_once("exit code ")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

fn unfinished(step: StepName, job: &Job, pods: &[Arc<Pod>], now: &Time) -> StepOutcome {
    if job.spec.suspend {
        let labels = job.metadata.labels.as_ref();
        return match labels.and_then(|labels| labels.get(QUEUE_NAME)) {
            Some(queue) => StepOutcome::Waiting {
                reason: Reason::Queued,
                message: format!(
                    "step {step} waits in queue {queue}; kubectl describe workloads says for what"
                ),
            },
            None => StepOutcome::Waiting {
                reason: Reason::Suspended,
                message: format!("step {step} is held; set spec.suspend to false to go on"),
            },
        };
    }
    let open: Vec<&Pod> = pods.iter().map(AsRef::as_ref).filter(|pod| !pod.status.is_finished()).collect();
    let troubles: Vec<_> = open.iter().filter_map(|pod| trouble(pod, now)).collect();
    let Some(first) = troubles.first() else {
        return match failing(step, job, pods) {
            Some(message) => StepOutcome::Waiting { reason: Reason::of_step(step), message },
            None => StepOutcome::Running,
        };
    };
    if troubles.len() == open.len() || first.reason == Reason::NodeLost {
        return StepOutcome::Waiting { reason: first.reason, message: first.message.clone() };
    }
    StepOutcome::Waiting {
        reason: Reason::of_step(step),
        message: format!(
            "step {step} runs, but {} of its {} pods does not: {}",
            troubles.len(),
            open.len(),
            first.message
        ),
    }
}

/// What failed although the step goes on. Between two pods of an index Kubernetes waits, for minutes in the end, and an
/// index that used up its budget leaves the others at work: why is known already.
fn failing(step: StepName, job: &Job, pods: &[Arc<Pod>]) -> Option<String> {
    let mut last: BTreeMap<u32, Option<&Terminated>> = BTreeMap::new();
    for pod in pods {
        let ended = terminated(pod).filter(|_| pod.status.is_finished());
        let known = last.entry(index(pod)).or_insert(ended);
        // An index with a pod that has not ended is at work.
        *known = (*known).zip(ended).map(|(a, b)| if a.finished_at > b.finished_at { a } else { b });
    }
    let given_up = job.status.failed_indexes.as_deref().unwrap_or_default();
    let (index, ended) = last.iter().find_map(|(index, ended)| {
        let ended = (*ended)?;
        let exit = exit_code(ended);
        (exit.is_retryable() && exit != ExitCode::Interrupted).then_some((*index, ended))
    })?;
    let why = words(step, ended);
    Some(match () {
        () if indexes(given_up).any(|given_up| given_up == index) => {
            format!("step {step} goes on with the other indexes, but index {index} failed for good: {why}")
        }
        () if last.len() > 1 => format!("index {index} of step {step} is tried again: {why}"),
        () => format!("step {step} is tried again: {why}"),
    })
}

/// Pods that a Job should have and has not, although it had time to make them.
#[derive(Debug, Clone, PartialEq)]
pub struct MissingPods {
    /// How many.
    pub missing: usize,
    /// How many there should be.
    pub wanted: usize,
    /// What was said before that is of no matter any more.
    pub since: Option<Time>,
}

/// The pods that a Job lacks, if any.
#[must_use]
pub fn missing_pods(job: &Job, pods: &[Arc<Pod>], now: &Time) -> Option<MissingPods> {
    let Job { metadata, spec, status } = job;
    if spec.suspend || is_over(job) {
        return None;
    }
    let count = |count: i32| usize::try_from(count).unwrap_or_default();
    let failed = status.failed_indexes.as_deref().map_or(0, |list| indexes(list).count());
    let completions = count(spec.completions.unwrap_or_default());
    let left = completions.saturating_sub(count(status.succeeded) + failed);
    let wanted = left.min(count(spec.parallelism.unwrap_or_default()));
    let missing = wanted.saturating_sub(pods.iter().filter(|pod| !pod.status.is_finished()).count());
    let started = status.start_time.as_ref().or(metadata.creation_timestamp.as_ref());
    let made = pods.iter().filter_map(|pod| pod.metadata.creation_timestamp.as_ref());
    let since = started.into_iter().chain(made).max_by_key(|time| time.0).cloned();
    let old = since.as_ref().is_some_and(|since| now.0.duration_since(since.0) > MAKING_PODS);
    (missing > 0 && old).then_some(MissingPods { missing, wanted, since })
}

/// The indexes of a list such as `1,3-5`.
fn indexes(list: &str) -> impl Iterator<Item = u32> {
    list.split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first..last.saturating_add(1),
            _ => 0..0,
        }
    })
}

fn asked_to_be_resumed(pod: &Pod) -> bool {
    let disrupted = pod.status.conditions.iter().any(|condition| condition.is("DisruptionTarget", "True"));
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let exit = terminated(pod).map(|ended| ended.exit_code);
    !disrupted && !deleted && exit == Some(i32::from(ExitCode::Interrupted.code()))
}

/// The index of a pod; 0 outside Indexed Jobs.
fn index(pod: &Pod) -> u32 {
    let metadata = &pod.metadata;
    let of = |map: &Option<BTreeMap<String, String>>| map.as_ref().and_then(|map| map.get(INDEX).cloned());
    of(&metadata.annotations)
        .or_else(|| of(&metadata.labels))
        .and_then(|index| index.parse().ok())
        .unwrap_or_default()
}

fn terminated(pod: &Pod) -> Option<&Terminated> {
    let statuses = &pod.status.container_statuses;
    statuses.iter().find(|status| status.name == "trainer")?.state.terminated.as_deref()
}

/// How its trainer ended, where that was well.
fn done(pod: &Pod) -> Option<&Terminated> {
    terminated(pod).filter(|ended| ended.exit_code == i32::from(ExitCode::Done.code()))
}

/// Whether a pod has a result.
#[must_use]
pub fn has_result(pod: &Pod) -> bool {
    pod.status.is_finished() && done(pod).is_some()
}

/// The items of the indexes of a running step that are done, and the addresses of those that run.
#[must_use]
pub fn parts(step: StepName, pods: &[Arc<Pod>]) -> (Vec<StepResult>, Vec<String>) {
    let done = pods.iter().filter_map(|pod| done(pod)).filter_map(|ended| said(step, ended).ok()).collect();
    let running = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| pod.status.phase.as_deref() == Some("Running"))
        .filter_map(|pod| pod.status.pod_ip.clone())
        .collect();
    (done, running)
}
