//! What keeps a pod from running, and how to fix it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use stic_contract::StepName;
use stic_crds::Reason;

use super::objects::{Condition, ContainerStatus, Pod, PodStatus};
use super::trainer_exit::{failure_message, has_started, runs, terminated};

/// A kubelet confirms the end of a pod within its grace period. If this much more time passes, it is considered dead.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// How long a sidecar that notices the end of the trainer may take to end too.
const SIDECAR_ENDS: SignedDuration = SignedDuration::from_secs(5);
/// The reasons for which a kubelet reports that a pod is not ready. The node controller gives none.
const OF_KUBELET: [&str; 3] = ["ContainersNotReady", "ReadinessGatesNotReady", "PodCompleted"];

/// What keeps a pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: Reason,
    pub message: String,
}

#[must_use]
pub fn trouble(step: StepName, pod: &Pod, now: &Time) -> Option<Trouble> {
    let status = &pod.status;
    let first = node_lost(pod, now).or_else(|| not_ending(pod, now)).or_else(|| sidecar(step, pod, now));
    let first = first.or_else(|| if runs(pod) { None } else { container(status) });
    first.or_else(|| {
        // Once the pod runs, an old condition no longer matters.
        let pending = status.phase.as_deref().is_none_or(|phase| phase == "Pending");
        pending.then(|| unschedulable(&status.conditions)).flatten()
    })
}

/// Whether the trainer of a pod does not work: it has not started, or it has ended and another container keeps the pod.
#[must_use]
pub fn is_idle(step: StepName, pod: &Pod, now: &Time) -> bool {
    let is_kept = || sidecar(step, pod, now).is_some() || container(&pod.status).is_some();
    pod.status.is_finished() || !has_started(pod) || (!runs(pod) && is_kept())
}

fn unschedulable(conditions: &[Condition]) -> Option<Trouble> {
    let condition = conditions.iter().find(|condition| condition.is("PodScheduled", "False"))?;
    let why = condition.message.as_deref().unwrap_or("the scheduler gives no reason").trim_end_matches('.');
    let (reason, remedy) = if why.contains("unbound immediate PersistentVolumeClaims") {
        (
            Reason::ClaimUnbound,
            "create a PersistentVolume that fits, or use a storage class that provisions one",
        )
    } else if why.contains("persistentvolumeclaim") && why.contains("is being deleted") {
        (Reason::ClaimTerminating, "create the claim again once it is gone; the pod then starts on its own")
    } else if why.contains("persistentvolumeclaim") && why.contains("not found") {
        (Reason::ClaimMissing, "create the claim; the pod then starts on its own")
    } else {
        (
            Reason::Unschedulable,
            "free or add such a node, or change spec.pod, and the step is launched again with it",
        )
    };
    Some(Trouble { reason, message: format!("no node can run the pod: {why}; {remedy}") })
}

fn container(status: &PodStatus) -> Option<Trouble> {
    status.init_container_statuses.iter().chain(&status.container_statuses).find_map(|container| {
        let waiting = container.state.waiting.as_ref()?;
        let why = waiting.message.as_deref().unwrap_or("the kubelet gives no reason").trim_end_matches('.');
        let (reason, remedy) = match waiting.reason.as_deref()? {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable" => (
                Reason::ImagePullFailed,
                "make the image available, or correct spec.pod, and the step is launched again with it",
            ),
            "CrashLoopBackOff"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "StartError" => (
                Reason::PodStartFailed,
                "fix what the message names, or correct spec.pod, and the step is launched again with it",
            ),
            _ => return None,
        };
        Some(Trouble { reason, message: format!("cannot start image {}: {why}; {remedy}", container.image) })
    })
}

/// A dead kubelet shows in what is no longer updated: every container is ready in a pod that the node controller has
/// marked as not ready. A kubelet that is alive gives a reason for a pod that is not ready, such as a second container
/// that is still starting, or that keeps running beside a trainer that has ended.
fn node_lost(pod: &Pod, now: &Time) -> Option<Trouble> {
    let node = pod.spec.node_name.as_ref()?;
    let not_ready = pod.status.conditions.iter().find(|condition| condition.is("Ready", "False"))?;
    if not_ready.reason.as_deref().is_some_and(|reason| OF_KUBELET.contains(&reason)) {
        return None;
    }
    let containers = &pod.status.container_statuses;
    let all_ready = containers.iter().all(|container| container.ready && container.state.running.is_some());
    let lost = (all_ready && !containers.is_empty()) || is_overdue(pod, now);
    lost.then(|| Trouble {
        reason: Reason::NodeLost,
        message: format!(
            "node {node} does not respond, and its pod is not replaced while it might still write; bring the node back, or, if it is off for good, run: kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        ),
    })
}

/// Whether a pod was deleted, and should have ended by now.
fn is_overdue(pod: &Pod, now: &Time) -> bool {
    let until = pod.metadata.deletion_timestamp.as_ref();
    until.is_some_and(|until| now.0.duration_since(until.0) > LATE) && !pod.status.is_finished()
}

/// A pod that does not end although nothing says that its node is lost.
fn not_ending(pod: &Pod, now: &Time) -> Option<Trouble> {
    let node = pod.spec.node_name.as_ref()?;
    is_overdue(pod, now).then(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Trouble {
            reason: Reason::PodNotEnding,
            message: format!(
                "pod {name} on node {node} was deleted and does not end, and is not replaced while it might still write; if the node is NotReady, bring it back, or taint it as out of service if it is off for good; otherwise look for a process that hangs in a storage operation"
            ),
        }
    })
}

/// Another container that keeps running after the trainer has ended, and with it the pod. A native sidecar is an init
/// container, and ends with the trainer.
fn sidecar(step: StepName, pod: &Pod, now: &Time) -> Option<Trouble> {
    let ended = terminated(pod)?;
    let running = |container: &&ContainerStatus| container.state.running.is_some();
    let other = pod.status.container_statuses.iter().find(running)?;
    let ended_at = ended.finished_at.as_ref();
    if pod.status.is_finished()
        || pod.metadata.deletion_timestamp.is_some()
        || ended_at.is_some_and(|at| now.0.duration_since(at.0) < SIDECAR_ENDS)
    {
        return None;
    }
    let how = match ended.exit_code {
        0 => "exit code 0: it has succeeded".to_owned(),
        code => format!("exit code {code}: {}", failure_message(step, pod, ended)),
    };
    Some(Trouble {
        reason: Reason::SidecarRunning,
        message: format!(
            "the trainer has ended ({how}), but container {} keeps its pod from ending; exclude the pods from injection with spec.pod.labels or spec.pod.annotations, and the step is launched again, or inject it as a native sidecar; to continue without either, end the container",
            other.name
        ),
    })
}
