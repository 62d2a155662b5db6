//! How the trainer of a pod ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use stic_contract::{ExitCode, StepName, StepResult};
use stic_crds::Reason;

use super::objects::{ContainerStatus, INDEX, Pod, PodStatus, Terminated};
use crate::build::pod::TRAINER_CONTAINER;
use crate::snapshot::RAN_OUT_OF_MEMORY;

/// A termination message that is not a result is the end of a log, of which this much is shown.
const SHOWN_CHARS: usize = 600;

/// The index of a pod; 0 if its Job is not Indexed.
pub(super) fn index(pod: &Pod) -> u32 {
    let metadata = &pod.metadata;
    let of = |map: &Option<BTreeMap<String, String>>| map.as_ref().and_then(|map| map.get(INDEX).cloned());
    of(&metadata.annotations)
        .or_else(|| of(&metadata.labels))
        .and_then(|index| index.parse().ok())
        .unwrap_or_default()
}

pub(super) fn terminated(pod: &Pod) -> Option<&Terminated> {
    trainer(pod)?.state.terminated.as_deref()
}

/// The container of the trainer, beside which others may have been injected.
fn trainer(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.container_statuses.iter().find(|status| status.name == TRAINER_CONTAINER)
}

/// Whether the trainer of a pod runs.
pub(super) fn runs(pod: &Pod) -> bool {
    trainer(pod).is_some_and(|status| status.state.running.is_some())
}

/// Whether the trainer of a pod has ever started.
#[must_use]
pub fn has_started(pod: &Pod) -> bool {
    trainer(pod).is_some_and(ContainerStatus::has_started)
}

/// Why the kubelet refused a pod before any of its containers started. A pod that is evicted or disrupted is marked as a
/// disruption target; one that is refused has a reason and nothing else.
pub(super) fn rejection(pod: &Pod) -> Option<String> {
    let PodStatus { phase, reason, message, container_statuses, init_container_statuses, .. } = &pod.status;
    let mut all = container_statuses.iter().chain(init_container_statuses);
    let any_started = all.any(ContainerStatus::has_started);
    if phase.as_deref() != Some("Failed") || any_started || is_disrupted(pod) {
        return None;
    }
    let node = pod.spec.node_name.as_ref().map_or("the pod's node".to_owned(), |node| format!("node {node}"));
    let message = message.as_deref().unwrap_or("it does not say more");
    Some(format!(
        "the kubelet of {node} refused the pod before it started: {}: {message}",
        reason.as_deref()?
    ))
}

/// The failure of a container other than the trainer's in a pod that failed.
pub(super) fn other_failure(pod: &Pod) -> Option<String> {
    let PodStatus { phase, container_statuses, init_container_statuses, .. } = &pod.status;
    let mut all = init_container_statuses.iter().chain(container_statuses);
    let (name, ended) = all.find_map(|status| {
        let ended = status.state.terminated.as_ref()?;
        (status.name != TRAINER_CONTAINER && ended.exit_code != 0).then_some((&status.name, ended))
    })?;
    (phase.as_deref() == Some("Failed")).then(|| {
        let text = match ended.message.as_deref().map(|text| tail(text.trim())) {
            _ if ran_out_of_memory(ended) => format!(": {RAN_OUT_OF_MEMORY}"),
            Some(text) if !text.is_empty() => format!(": {text}"),
            _ => String::new(),
        };
        format!(
            "its container {name} ended with exit code {}{text}; see the log of that container",
            ended.exit_code
        )
    })
}

fn is_disrupted(pod: &Pod) -> bool {
    pod.status.conditions.iter().any(|condition| condition.is("DisruptionTarget", "True"))
}

pub(super) fn exit_code(ended: &Terminated) -> ExitCode {
    ExitCode::from_status(ended.exit_code)
}

fn ran_out_of_memory(ended: &Terminated) -> bool {
    ended.reason.as_deref() == Some("OOMKilled")
}

/// Why a step failed whose trainer ended so.
pub(super) fn reason(ended: &Terminated) -> Reason {
    if ran_out_of_memory(ended) { Reason::OutOfMemory } else { Reason::of_exit(exit_code(ended)) }
}

/// Why the last pod ended that did not succeed.
pub(super) fn last_failure(step: StepName, pods: &[Arc<Pod>]) -> Option<String> {
    let last = last_failed(pods)?;
    let disruption = last.status.conditions.iter().find(|condition| condition.is("DisruptionTarget", "True"));
    let failed = terminated(last).filter(|_| succeeded(last).is_none());
    Some(match (disruption, eviction(last), failed) {
        (Some(disruption), _, _) => {
            let reason = disruption.reason.as_deref().unwrap_or("disrupted");
            format!("{reason}: {}", disruption.message.as_deref().unwrap_or("Kubernetes does not say more"))
        }
        (None, Some(eviction), _) => eviction,
        (None, None, Some(ended)) => failure_message(step, last, ended),
        (None, None, None) => other_failure(last).unwrap_or_else(|| "it ended without a trainer".to_owned()),
    })
}

fn last_failed(pods: &[Arc<Pod>]) -> Option<&Pod> {
    let failed = pods.iter().filter(|pod| pod.status.phase.as_deref() == Some("Failed"));
    let last = failed.max_by_key(|pod| terminated(pod).and_then(|ended| ended.finished_at.clone()));
    last.map(AsRef::as_ref)
}

/// Whether the last pod that did not succeed ended because its GPU failed.
pub(super) fn device_failed(pods: &[Arc<Pod>]) -> bool {
    last_failed(pods).and_then(terminated).is_some_and(|ended| exit_code(ended) == ExitCode::DeviceFailed)
}

/// The end of a trainer that succeeded.
pub(super) fn succeeded(pod: &Pod) -> Option<&Terminated> {
    terminated(pod).filter(|ended| ended.exit_code == i32::from(ExitCode::Done.code()))
}

/// Whether a pod has ended and has a result.
#[must_use]
pub fn has_result(pod: &Pod) -> bool {
    pod.status.is_finished() && succeeded(pod).is_some()
}

/// Whether the trainer exited in order to be resumed: it was interrupted, or its GPU failed.
pub(super) fn exited_to_be_resumed(pod: &Pod) -> bool {
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let interrupted = terminated(pod).is_some_and(|ended| exit_code(ended).is_interruption());
    !is_disrupted(pod) && !deleted && interrupted
}

/// The result in a termination message.
pub(super) fn parse_result(step: StepName, ended: &Terminated) -> Result<StepResult, String> {
    let message = ended.message.as_deref().unwrap_or_default();
    if message.is_empty() {
        return Err("it is empty".to_owned());
    }
    let result: StepResult = serde_json::from_str(message.trim()).map_err(|error| error.to_string())?;
    if result.step == step { Ok(result) } else { Err(format!("it is for step {}", result.step)) }
}

/// Why a trainer failed.
pub(super) fn failure_message(step: StepName, pod: &Pod, ended: &Terminated) -> String {
    if ran_out_of_memory(ended) {
        return RAN_OUT_OF_MEMORY.into();
    }
    let text = match parse_result(step, ended) {
        Ok(result) => result.message,
        Err(_) => ended.message.as_deref().map(|text| tail(text.trim())).filter(|text| !text.is_empty()),
    };
    match (text, ended.exit_code) {
        (Some(text), _) if exit_code(ended) == ExitCode::DeviceFailed => match &pod.spec.node_name {
            Some(node) => format!("node {node}: {text}"),
            None => format!("its node: {text}"),
        },
        // The log ends where the trainer was killed, and does not say why.
        (Some(text), 137) => {
            format!("it was killed without time to save its state; its log ends with: {text}")
        }
        (Some(text), _) => text,
        (None, 137) => "it was killed without time to save its state".into(),
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

/// Why Kubernetes evicted a pod.
pub(super) fn eviction(pod: &Pod) -> Option<String> {
    let reason = pod.status.reason.as_ref()?;
    Some(format!("{reason}: {}", pod.status.message.as_deref().unwrap_or("Kubernetes does not say more")))
}
