//! What admission webhooks of a platform do to the objects of runs: deny, time out, change, and inject containers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::{ConditionType, RunStatus};

use crate::kubelet::{PodAction, success_message};
use crate::runs::{phase, text};
use crate::test_env::{TestEnv, until};
use crate::webhook::{DENIAL, Review, Webhook};

/// What a webhook answers that denies an object of each run; the runs are named for it.
fn denial(object: &Value) -> Review {
    let labels = &object["metadata"]["labels"];
    let [kind, run, step] = [&object["kind"], &labels["stic.dev/run"], &labels["stic.dev/step"]]
        .map(|text| text.as_str().unwrap_or_default());
    match (run, kind, step) {
        ("no-code", "Job", _) => Review::Deny(None),
        ("invalid", "Job", _) => Review::Deny(Some(422)),
        ("forbidden-later", "Job", "train") => Review::Deny(Some(403)),
        ("map", "ConfigMap", _) | ("claim", "PersistentVolumeClaim", _) | ("pod", "Pod", _) => {
            Review::Deny(Some(403))
        }
        ("conflict", "Job", _) => Review::Deny(Some(409)),
        ("too-many", "Job", _) => Review::Deny(Some(429)),
        ("broken-later", "Job", "train") => Review::Deny(Some(500)),
        ("hanging", "Job", _) => Review::Hang,
        _ => Review::Allow,
    }
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn whatever_a_webhook_denies_is_quoted_until_it_is_allowed() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let denies = Arc::new(AtomicBool::new(true));
    let webhook = Webhook::start(&env, {
        let denies = denies.clone();
        move |object| if denies.load(Ordering::Relaxed) { denial(object) } else { Review::Allow }
    })
    .await;
    env.start();
    let expected = [
        ("no-code", "JobRejected", "rejected the Job"),
        ("invalid", "JobRejected", "rejected the Job"),
        ("forbidden-later", "JobRejected", "rejected the Job"),
        ("map", "JobRejected", "rejected the ConfigMap"),
        ("claim", "JobRejected", "spec.output.volumeClaimTemplate"),
        ("pod", "PodsNotCreated", "cannot create the pod"),
        ("conflict", "ReconcileFailed", "could not create the Job"),
        ("too-many", "ReconcileFailed", "could not create the Job"),
        ("broken-later", "ReconcileFailed", "could not create the Job"),
        ("hanging", "ReconcileFailed", "failed calling webhook"),
    ];
    for (run, _, _) in expected {
        if run == "claim" { env.one_with_claim(run, "").await } else { env.one(run, "").await }
    }
    for (run, reason, words) in expected {
        // On a busy machine an answer may come too late, and the next attempt gets it.
        let is_quoted = |status: &RunStatus| {
            let message = text(status, ConditionType::Succeeded);
            let denied = run == "hanging" || message.contains(DENIAL);
            phase(status) == reason && message.contains(words) && denied
        };
        let status = env.until_one(run, reason, is_quoted).await;
        let reconciling = status.condition(ConditionType::Reconciling).expect("a condition");
        assert_eq!(reconciling.status, "True", "{run} does not look healthy");
    }
    denies.store(false, Ordering::Relaxed);
    for (run, _, _) in expected {
        env.until_one(run, "done", |status| phase(status) == "Succeeded").await;
    }
    webhook.remove().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn runs_succeed_although_webhooks_change_their_objects() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let webhook = Webhook::start(&env, |object| {
        let platform = json!({"op": "replace", "path": "/metadata/labels/app.kubernetes.io~1managed-by", "value": "platform"});
        let mut changes = match object["metadata"]["labels"]["stic.dev/run"].as_str() {
            Some("relabelled") => vec![platform],
            _ => Vec::new(),
        };
        if object["kind"] == "Job" {
            changes.push(json!({"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": 0}));
        }
        Review::Patch(json!(changes))
    })
    .await;
    env.start();
    for run in ["relabelled", "expiring"] {
        env.one(run, "  preferences: {shards: 2}\n").await;
    }
    for run in ["relabelled", "expiring"] {
        env.until_one(run, "done", |status| phase(status) == "Succeeded").await;
    }
    webhook.remove().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_correction_of_spec_pod_replaces_pods_in_which_only_a_sidecar_runs() {
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (StepName::Prepare, 1 | 2) => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    let webhook = Webhook::start(&env, |object| {
        let excluded = object["metadata"]["annotations"]["sidecar"] == "none";
        let sidecar = json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "agent", "image": "agent"}}]);
        if object["kind"] == "Pod" && !excluded { Review::Patch(sidecar) } else { Review::Allow }
    })
    .await;
    env.start();
    env.one("one", "  pod: {image: registry/typo}\n").await;
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let first = next_pod(&env, &[]).await;
    set_trainer(&env, &first, "Pending", waiting).await;
    env.until_one("one", "reported", |status| phase(status) == "ImagePullFailed").await;
    env.edit("one", json!({"spec": {"pod": {"image": "registry/right"}}})).await;
    let second = next_pod(&env, &[&first]).await;
    let ended = json!({"terminated": {"exitCode": 0, "message": success_message(&second),
        "finishedAt": "2026-01-01T00:00:00Z"}});
    set_trainer(&env, &second, "Running", ended).await;
    let status = env.until_one("one", "reported", |status| phase(status) == "SidecarRunning").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("container agent") && message.contains("spec.pod.annotations"), "{message}");
    env.edit("one", json!({"spec": {"pod": {"annotations": {"sidecar": "none"}}}})).await;
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(status.steps[0].uncounted_launches, 2, "corrections use up no retry");
    webhook.remove().await;
}

/// The first pod of the run besides those that are known, with its injected container.
async fn next_pod(env: &TestEnv, known: &[&Pod]) -> Pod {
    let pod = until("another pod", async || {
        let pods = env.pods_of("one").await;
        pods.into_iter().find(|pod| known.iter().all(|known| known.name_any() != pod.name_any()))
    })
    .await;
    assert_eq!(pod.spec.as_ref().map_or(0, |spec| spec.containers.len()), 2, "it has a sidecar");
    pod
}

/// Sets the state of the trainer of a pod whose sidecar runs.
async fn set_trainer(env: &TestEnv, pod: &Pod, phase: &str, trainer: Value) {
    let container = |name: &str, state: &Value| {
        json!({"name": name, "image": name, "imageID": "", "ready": state["running"].is_object(),
        "restartCount": 0, "state": state})
    };
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let status = json!({"status": {"phase": phase, "containerStatuses": [container("trainer", &trainer), container("agent", &running)],
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]}});
    let patch = Patch::Merge(&status);
    env.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a pod");
}
