//! Why pods that exist do not start. Only their events say so.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stic_contract::{RunIdentity, StepName};
use stic_crds::Reason;

use crate::cluster::objects::Pod;
use crate::cluster::trainer_exit::has_started;
use crate::context::Context;
use crate::snapshot::StepOutcome;

/// The time that a pod has to start before its events are read.
const STARTING: SignedDuration = SignedDuration::from_secs(60);

/// Why pods that were created a while ago have not started.
pub(super) async fn explain(
    context: &Context,
    run: &RunIdentity,
    step: StepName,
    pods: &[Arc<Pod>],
    now: &Time,
) -> kube::Result<Option<StepOutcome>> {
    let open = pods.iter().filter(|pod| !pod.status.is_finished()).count();
    let overdue: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_overdue(pod, now)).collect();
    let Some(first) = overdue.first() else { return Ok(None) };
    let api: Api<Event> = Api::namespaced(context.client.clone(), &run.namespace);
    let of_pod = format!("involvedObject.uid={}", first.uid().unwrap_or_default());
    let events = api.list(&ListParams::default().fields(&of_pod)).await?.items;
    let last = events.iter().max_by_key(|event| time(event));
    let (reason, message) = explanation(step, first, last);
    Ok(Some(if overdue.len() == open || reason == Reason::of_step(step) {
        StepOutcome::Waiting { reason, message }
    } else {
        let message = format!(
            "step {step} is running, but {} of its {open} pods do not start: {message}",
            overdue.len()
        );
        StepOutcome::Waiting { reason: Reason::of_step(step), message }
    }))
}

fn is_overdue(pod: &Pod, now: &Time) -> bool {
    let created = pod.metadata.creation_timestamp.as_ref();
    let is_open = !pod.status.is_finished() && pod.metadata.deletion_timestamp.is_none();
    is_open && !has_started(pod) && created.is_some_and(|at| now.0.duration_since(at.0) > STARTING)
}

/// The time of an event, which is in another field for each version of the API and each repetition.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series.map(|time| time.0).max(last).max(event.event_time.as_ref().map(|time| time.0))
}

fn explanation(step: StepName, pod: &Pod, last: Option<&Event>) -> (Reason, String) {
    let name = pod.name_any();
    let text = |event: &Event| event.message.as_deref().unwrap_or_default().trim_end_matches('.').to_owned();
    let scheduled = pod.status.conditions.iter().any(|condition| condition.kind == "PodScheduled");
    if pod.spec.node_name.is_none() && !scheduled {
        let scheduler = pod.spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
        return (
            Reason::Unschedulable,
            format!(
                "scheduler {scheduler} has not considered pod {name} yet; check that it is running, or correct spec.pod.schedulerName, and the step is launched again with it"
            ),
        );
    }
    match last {
        Some(event) if event.type_.as_deref() == Some("Warning") => {
            let what = event.reason.as_deref().unwrap_or("Warning");
            let reason = match what {
                "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Reason::VolumeNotMounted,
                _ => Reason::PodStartFailed,
            };
            (
                reason,
                format!(
                    "pod {name} does not start: {what}: {}; fix what it names, and the pod starts on its own",
                    text(event)
                ),
            )
        }
        Some(event) => {
            (Reason::of_step(step), format!("step {step} is starting: {} (pod {name})", text(event)))
        }
        None => {
            let state = pod.status.container_statuses.iter().find_map(|status| status.state.waiting.as_ref());
            let state = state.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("pending");
            (
                Reason::of_step(step),
                format!("step {step} is starting: pod {name} has no event and is {state}"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Pod {
        let metadata = json!({"name": "p", "creationTimestamp": "2026-11-24T10:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a pod")
    }

    fn event(kind: &str, reason: &str, message: &str) -> Event {
        serde_json::from_value(json!({"metadata": {}, "involvedObject": {}, "type": kind, "reason": reason,
            "message": message, "lastTimestamp": "2026-11-24T10:00:00Z"}))
        .expect("an event")
    }

    #[test]
    fn a_pod_that_does_not_start_is_explained_by_its_last_event() {
        let bound = pod(json!({"nodeName": "n"}), json!({"phase": "Pending"}));
        let explain = |pod: &Pod, event: Option<Event>| explanation(StepName::Train, pod, event.as_ref());
        for (kind, reason, message, expected) in [
            ("Warning", "FailedMount", "MountVolume.SetUp failed: no such host", Reason::VolumeNotMounted),
            ("Warning", "FailedAttachVolume", "Multi-Attach error for volume x", Reason::VolumeNotMounted),
            ("Warning", "FailedCreatePodSandBox", "no IP addresses", Reason::PodStartFailed),
            ("Warning", "FailedPrepareDynamicResources", "claim is stuck", Reason::PodStartFailed),
            ("Normal", "Pulling", "Pulling image x", Reason::Training),
        ] {
            let (found, text) = explain(&bound, Some(event(kind, reason, message)));
            assert_eq!(found, expected);
            assert!(text.contains(message), "{text}");
        }
        let creating = json!({"phase": "Pending", "containerStatuses": [
            {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        let (found, text) = explain(&pod(json!({"nodeName": "n"}), creating), None);
        assert_eq!((found, text.ends_with("ContainerCreating")), (Reason::Training, true), "{text}");
        let (found, text) = explain(&pod(json!({"schedulerName": "volcano"}), json!({})), None);
        assert_eq!((found, text.starts_with("scheduler volcano")), (Reason::Unschedulable, true), "{text}");
    }

    #[test]
    fn a_pod_has_a_minute_to_start() {
        let pending = pod(json!({}), json!({"phase": "Pending"}));
        let at = |time: &str| Time(time.parse().expect("a time"));
        assert!(!is_overdue(&pending, &at("2026-11-24T10:01:00Z")));
        assert!(is_overdue(&pending, &at("2026-11-24T10:01:01Z")));
        let running =
            json!({"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {"running": {}}}]});
        assert!(!is_overdue(&pod(json!({}), running), &at("2026-11-24T11:00:00Z")));
    }
}
