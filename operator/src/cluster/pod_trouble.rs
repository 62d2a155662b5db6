//! What keeps a pod from running, in words that end with the mend.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

use super::objects::{Condition, Pod, PodStatus};
use crate::refusal::Reason;

/// A kubelet confirms the end of a pod within its grace period; after this much more it is not there.
const LATE: SignedDuration = SignedDuration::from_secs(30);

/// What is in the way of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The reason.
    pub reason: Reason,
    /// What, and what to do.
    pub message: String,
}

/// What is in the way of `pod`, if anything is.
#[must_use]
pub fn trouble(pod: &Pod, now: &Time) -> Option<Trouble> {
    let status = &pod.status;
    node_lost(pod, now).or_else(|| container(status)).or_else(|| {
        // A condition of the past says nothing about a pod that runs.
        let pending = status.phase.as_deref().is_none_or(|phase| phase == "Pending");
        pending.then(|| unschedulable(&status.conditions)).flatten()
    })
}

fn unschedulable(conditions: &[Condition]) -> Option<Trouble> {
    let condition = conditions.iter().find(|condition| condition.is("PodScheduled", "False"))?;
    let why = condition.message.as_deref().unwrap_or("the scheduler does not say why").trim_end_matches('.');
    let (reason, mend) = if why.contains("unbound immediate PersistentVolumeClaims") {
        (
            Reason::ClaimUnbound,
            "make a PersistentVolume that fits, or name a storage class that provisions one",
        )
    } else if why.contains("persistentvolumeclaim") && why.contains("is being deleted") {
        (Reason::ClaimTerminating, "create the claim again when it is gone, and the pod starts by itself")
    } else if why.contains("persistentvolumeclaim") && why.contains("not found") {
        (Reason::ClaimMissing, "create the claim, and the pod starts by itself")
    } else {
        (
            Reason::Unschedulable,
            "free or add such nodes and it starts by itself, or change spec.pod and delete its Job, which is then made anew",
        )
    };
    Some(Trouble { reason, message: format!("no node takes the pod: {why}; {mend}") })
}

fn container(status: &PodStatus) -> Option<Trouble> {
    status.init_container_statuses.iter().chain(&status.container_statuses).find_map(|container| {
        let waiting = container.state.waiting.as_ref()?;
        let why = waiting.message.as_deref().unwrap_or("no more is known").trim_end_matches('.');
        let (reason, mend) = match waiting.reason.as_deref()? {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable" => (
                Reason::ImagePullFailed,
                "make the image available, or correct spec.pod and delete its Job, which is then made anew",
            ),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => (
                Reason::PodStartFailed,
                "mend what it names, or correct spec.pod and delete its Job, which is then made anew",
            ),
            _ => return None,
        };
        Some(Trouble {
            reason,
            message: format!("image {} cannot be started: {why}; {mend}", container.image),
        })
    })
}

/// A dead kubelet is known by what nobody updates: a container that says it is ready in a pod that the node controller
/// says is not, or a deletion that is not confirmed in time.
fn node_lost(pod: &Pod, now: &Time) -> Option<Trouble> {
    let node = pod.spec.node_name.as_ref()?;
    let not_ready = pod.status.conditions.iter().any(|condition| condition.is("Ready", "False"));
    let mut containers = pod.status.container_statuses.iter();
    let says_ready = containers.any(|container| container.ready && container.state.running.is_some());
    let overdue =
        pod.metadata.deletion_timestamp.as_ref().is_some_and(|until| now.0.duration_since(until.0) > LATE)
            && !pod.status.is_finished();
    ((not_ready && says_ready) || overdue).then(|| Trouble {
        reason: Reason::NodeLost,
        message: format!(
            "node {node} does not answer, and its pod is not replaced while it might still write; bring the node back, or if it is off for good run: kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        ),
    })
}
