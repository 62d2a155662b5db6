//! Pods that cannot be created, cannot start, or are on a lost node.

use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::{ConditionType, RunStatus};

use crate::kubelet::PodAction;
use crate::node::{Node, bind, from};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{TestEnv, until};

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_exceeded_quota_is_named_and_raising_it_lets_the_run_continue() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    let quotas = env.api::<ResourceQuota>();
    let quota =
        json!({"metadata": {"name": "small"}, "spec": {"hard": {"count/jobs.batch": "0", "pods": "0"}}});
    quotas.create(&PostParams::default(), &from(quota)).await.expect("a quota");
    let raise = async |hard: serde_json::Value| {
        let patch = json!({"spec": {"hard": hard}});
        quotas.patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a quota");
    };
    until("counted", async || quotas.get("small").await.expect("a quota").status?.used.map(drop)).await;
    env.start();
    env.one("one", "  preferences: {shards: 2}\n").await;
    let status = env.until_one("one", "reported", |status| phase(status) == "QuotaExceeded").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(
        message.contains("count/jobs.batch") && message.ends_with("Free or raise the quota."),
        "{message}"
    );
    assert_eq!(
        status.condition(ConditionType::Reconciling).map(|it| it.status.as_str()),
        Some("True"),
        "nothing exists yet"
    );
    raise(json!({"count/jobs.batch": "10"})).await;
    let no_pod =
        |status: &RunStatus| text(status, ConditionType::Succeeded).contains("cannot create the pod");
    let status = env.until_one("one", "waiting for its pods", no_pod).await;
    assert_eq!(phase(&status), "QuotaExceeded");
    assert!(
        text(&status, ConditionType::Succeeded).contains("pods=0"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );
    // One pod may run now, and only the other index is reported.
    raise(json!({"pods": "1"})).await;
    let status = env
        .until_one("one", "waiting for the other index", |status| {
            phase(status) == "Generating" && text(status, ConditionType::Succeeded).contains("exceeded quota")
        })
        .await;
    assert!(
        text(&status, ConditionType::Succeeded).contains("1 of its 2 pods"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );
    raise(json!({"pods": "10"})).await;
    for index in 0..2 {
        env.finish("one", StepName::Generate, index, 0, "").await;
    }
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    assert_eq!(env.jobs().await.len(), 3);
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_rejected_pod_is_fixed_in_the_spec_of_the_same_run() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Succeed).await;
    let limits = json!({"metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "max": {"memory": "1Gi"}}]}});
    env.api::<LimitRange>().create(&PostParams::default(), &from(limits)).await.expect("limits");
    env.start();
    env.one("one", "  pod: {resources: {limits: {memory: 4Gi}}}\n").await;
    let status = env.until_one("one", "reported", |status| phase(status) == "PodsNotCreated").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("maximum memory usage per Container is 1Gi"), "{message}");
    assert!(message.ends_with("correct spec.pod, and the step is launched again with it"), "{message}");
    let first = env.prepare_job("one").await;
    env.edit("one", json!({"spec": {"pod": {"resources": {"limits": {"memory": "512Mi"}}}}})).await;
    succeeds_with_another_job(&env, &first).await;
    let pods = env.pods_of("one").await;
    let limit = |pod: &Pod| {
        let container = pod.spec.as_ref()?.containers.first()?;
        container.resources.as_ref()?.limits.as_ref()?.get("memory").map(|limit| limit.0.clone())
    };
    assert!(pods.iter().all(|pod| limit(pod).as_deref() == Some("512Mi")), "{pods:#?}");
    pods_script.check().await;
}

/// Waits until the run, whose `spec.pod` was corrected, succeeds with another Job than `first`.
async fn succeeds_with_another_job(env: &TestEnv, first: &str) {
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_ne!(status.steps[0].job_name.as_deref(), Some(first));
    assert!(status.steps[0].uncounted_launches > 0, "a correction uses up no retry: {:?}", status.steps[0]);
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn image_pull_failures_and_unschedulable_pods_are_reported_until_fixed() {
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (StepName::Prepare, 1 | 2) => PodAction::Pend,
        _ => PodAction::Run,
    })
    .await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Succeed).await;
    let node = Node::new(&env).await;
    for claim in ["models", "coco", "stic"] {
        bind(&env, claim).await;
    }
    env.start();
    let pods = "{nodeSelector: {gpu: h100}, tolerations: [{operator: Exists}], image: registry/typo}";
    env.one("one", &format!("  pod: {pods}\n")).await;
    let status = env.until_one("one", "reported", |status| phase(status) == "Unschedulable").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(
        message.contains("no node can run the pod") && message.contains("node affinity/selector"),
        "{message}"
    );
    assert!(message.ends_with("and the step is launched again with it"), "{message}");
    let first = env.prepare_job("one").await;
    env.edit("one", json!({"spec": {"pod": {"nodeSelector": null, "tolerations": null}}})).await;
    let pod = until("a second pod", async || {
        let pods = env.pods_of("one").await;
        pods.into_iter()
            .find(|pod| pod.metadata.deletion_timestamp.is_none() && !pod.name_any().starts_with(&first))
    })
    .await;
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()), None);
    let waits = json!({"status": {"phase": "Pending", "conditions": null, "containerStatuses": [{"name": "trainer",
        "image": "registry/typo", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}}}]}});
    let pods = env.api::<Pod>();
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&waits)).await.expect("a pod");
    let status = env.until_one("one", "reported", |status| phase(status) == "ImagePullFailed").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("registry/typo") && message.contains("not found"), "{message}");
    assert!(message.ends_with("correct spec.pod, and the step is launched again with it"), "{message}");
    env.edit("one", json!({"spec": {"pod": {"image": "registry/right"}}})).await;
    succeeds_with_another_job(&env, &first).await;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    assert!(env.pods_of("one").await.iter().all(|pod| image(pod).as_deref() == Some("registry/right")));
    node.remove().await;
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn pods_that_a_kubelet_refuses_are_followed_by_another_job() {
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "  backoff: {limit: 0}\n").await;
    let pods = env.api::<Pod>();
    let pod = until("a pod", async || env.pods_of("one").await.pop()).await;
    let refused = json!({"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError",
        "message": "Allocate failed due to no healthy devices present"}});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&refused))
        .await
        .expect("a pod");
    // An operator that comes too late to report it starts the next one at once.
    let is_rejected = |status: &RunStatus| phase(status) == "PodRejected";
    let followed = |status: &RunStatus| is_rejected(status) || status.steps[0].attempts == 2;
    let status = env.until_one("one", "reported", followed).await;
    if is_rejected(&status) {
        let message = text(&status, ConditionType::Succeeded);
        assert!(message.contains("UnexpectedAdmissionError: Allocate failed"), "{message}");
    }
    assert_eq!(status.succeeded(), None, "the step was never tried");
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!((status.steps[0].attempts, env.jobs().await.len()), (2, 4));
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_sidecar_that_keeps_a_pod_from_ending_is_named() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Prepare => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    let pods = env.api::<Pod>();
    let pod = until("a pod", async || env.pods_of("one").await.pop()).await;
    let not_ready = json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]);
    let container = |name: &str, ready: bool, state: serde_json::Value| json!({"name": name, "image": name, "imageID": "", "ready": ready, "restartCount": 0, "state": state});
    let sidecar = container("istio-proxy", true, json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    let set = async |phase: &str, trainer: serde_json::Value, sidecar: &serde_json::Value| {
        let status = json!({"status": {"phase": phase, "conditions": not_ready,
            "containerStatuses": [container("trainer", false, trainer), sidecar]}});
        let patch = Patch::Merge(&status);
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a pod");
    };
    // The scheduler would say again and again that it has no node.
    let node = Node::new(&env).await;
    node.bind_pod(&pod).await;
    set("Pending", json!({"waiting": {"reason": "ContainerCreating"}}), &sidecar).await;
    env.until_one("one", "starting", |status| {
        text(status, ConditionType::Succeeded).contains("is starting") && phase(status) == "Preparing"
    })
    .await;
    let message = crate::kubelet::success_message(&pod);
    let ended =
        json!({"terminated": {"exitCode": 0, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}});
    set("Running", ended.clone(), &sidecar).await;
    let status = env.until_one("one", "reported", |status| phase(status) == "SidecarRunning").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("container istio-proxy keeps its pod from ending"), "{message}");
    let gone = container(
        "istio-proxy",
        false,
        json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:09Z"}}),
    );
    set("Succeeded", ended, &gone).await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    node.remove().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_lost_node_is_named_and_tainting_it_lets_the_run_continue() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.step, scripted.nth) {
        (StepName::Train, 1) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    let node = Node::new(&env).await;
    env.one("one", "").await;
    let pod = env.pod("one", StepName::Train, 0).await;
    node.bind_pod(&pod).await;
    node.stop();
    // The kubelet stops reporting, which the node controller notices after its grace period.
    let status = env.until_one("one", "reported", |status| phase(status) == "NodeLost").await;
    let reconciling = status.condition(ConditionType::Reconciling).expect("a condition");
    assert_eq!((reconciling.status.as_str(), reconciling.reason.as_str()), ("True", "NodeLost"));
    let taint =
        format!("kubectl taint nodes {} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", node.name);
    assert!(
        reconciling.message.contains(&node.name) && reconciling.message.ends_with(&taint),
        "{}",
        reconciling.message
    );
    assert_eq!(status.succeeded(), None);
    assert_eq!(env.pods_of("one").await.len(), 3, "it might still write: it is not replaced");
    node.taint("node.kubernetes.io/out-of-service", "nodeshutdown", "NoExecute").await;
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!((env.jobs().await.len(), status.steps.len()), (3, 3));
    let pods = env.api::<Pod>();
    assert!(pods.get_opt(&pod.name_any()).await.expect("an answer").is_none(), "it was removed by force");
    node.remove().await;
    pods_script.check().await;
}
