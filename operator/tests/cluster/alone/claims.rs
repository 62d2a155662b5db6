//! Claims that are missing, unbound, lost, or being deleted.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::status::RunStatus;

use crate::kubelet::PodAction;
use crate::node::{Node, bind, from, lose};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{TestEnv, until};

/// Less than the 15 seconds after which the operator would poll, on a machine that needs no time itself.
const SOON: Duration = Duration::from_secs(12);

fn ready(status: &RunStatus) -> Option<(&str, &str)> {
    status
        .condition(ConditionType::InputsReady)
        .map(|condition| (condition.status.as_str(), condition.reason.as_str()))
}

/// Applies a run that reads its images from `claim`.
async fn run_on(env: &TestEnv, name: &str, claim: &str) {
    let spec = crate::common::STAGE_ONE.replace("claimName: coco,", &format!("claimName: {claim},"));
    env.one_of(name, &spec).await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_claim_that_is_created_or_restored_is_noticed_at_once() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step) {
        ("used", StepName::Generate) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    let claims = env.api::<PersistentVolumeClaim>();
    env.claim("lost").await;
    bind(&env, "lost").await;
    lose(&env, "lost").await;
    let node = Node::new(&env).await;
    env.start();
    run_on(&env, "misses", "absent").await;
    run_on(&env, "loses", "lost").await;
    env.claim("going").await;
    run_on(&env, "used", "going").await;

    let status = env.until_one("misses", "waits", |status| phase(status) == "ClaimMissing").await;
    assert_eq!(ready(&status), Some(("False", "ClaimMissing")));
    let message = text(&status, ConditionType::Succeeded);
    assert!(
        message.contains("absent") && message.ends_with("create it, and the run starts on its own"),
        "{message}"
    );
    let status = env.until_one("loses", "waits", |status| phase(status) == "ClaimLost").await;
    assert_eq!(ready(&status), Some(("False", "ClaimLost")));
    assert!(
        text(&status, ConditionType::Succeeded).contains("restore the volume"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );
    assert!(env.jobs_of("loses").await.is_empty() && env.jobs_of("misses").await.is_empty());

    // It exists as long as a pod uses it, but the run must report that it is being deleted.
    let pod = env.pod("used", StepName::Generate, 0).await;
    node.bind_pod(&pod).await;
    claims.delete("going", &DeleteParams::default()).await.expect("it is deleted");
    let going = claims.get("going").await.expect("it is protected while it is used");
    assert!(going.metadata.deletion_timestamp.is_some());
    let reported = |status: &RunStatus| {
        text(status, ConditionType::Succeeded).contains("PersistentVolumeClaim going is being deleted")
    };
    let status = env.until_one("used", "reported", reported).await;
    assert_eq!(phase(&status), "Generating", "it still runs");
    env.finish("used", StepName::Generate, 0, 0, "").await;
    let status = env.until_one("used", "waits", |status| phase(status) == "ClaimTerminating").await;
    assert_eq!(ready(&status), Some(("False", "ClaimTerminating")));
    let message = text(&status, ConditionType::Succeeded);
    assert!(
        message.contains("going is being deleted") && message.ends_with("and the run continues on its own"),
        "{message}"
    );
    env.confirm_deletion(&pod).await;
    until("gone", async || claims.get_opt("going").await.expect("an answer").is_none().then_some(())).await;
    env.until_one("used", "misses it", |status| phase(status) == "ClaimMissing").await;

    // What this machine needs for one change.
    let since = Instant::now();
    env.edit("misses", json!({"spec": {"backoff": {"limit": 8}}})).await;
    env.until_one("misses", "observed", |status| status.observed_generation == 2).await;
    let slowness = 10 * since.elapsed();

    let since = Instant::now();
    env.claim("absent").await;
    env.claim("going").await;
    claims.delete("lost", &DeleteParams::default()).await.expect("it is deleted");
    until("gone", async || claims.get_opt("lost").await.expect("an answer").is_none().then_some(())).await;
    env.claim("lost").await;
    for run in ["misses", "loses", "used"] {
        env.until_one(run, "continuing", |status| {
            ["Preparing", "Generating", "Training", "Succeeded"].contains(&phase(status))
        })
        .await;
    }
    assert!(since.elapsed() < SOON + slowness, "fixes were noticed after {:?}", since.elapsed());
    node.remove().await;
    for run in ["misses", "loses", "used"] {
        let status = env.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{run}: {:?}", status.steps);
    }
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_unbound_claim_is_named_with_a_remedy() {
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Run).await;
    let node = Node::new(&env).await;
    // The other claims get volumes, so that only one is unbound.
    for claim in ["models", "stic"] {
        bind(&env, claim).await;
    }
    env.start();
    env.one("one", &format!("  pod: {}\n", node.pod_settings())).await;
    let status = env.until_one("one", "reported", |status| phase(status) == "ClaimUnbound").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("PersistentVolumeClaim coco"), "{message}");
    assert!(message.contains("create a PersistentVolume that fits"), "{message}");
    assert_eq!(ready(&status), Some(("False", "ClaimUnbound")));
    bind(&env, "coco").await;
    // Once the claim has a volume, the scheduler binds the pod to the node.
    let pod = until("scheduled", async || {
        let pods = env.pods_of("one").await;
        pods.into_iter().find(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
    })
    .await;
    let running = json!({"status": {"phase": "Running"}});
    let api = env.api::<Pod>();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&running)).await.expect("a pod");
    env.finish("one", StepName::Prepare, 0, 0, "").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    pods_script.check().await;
    node.remove().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_storage_class_that_binds_with_the_first_pod_blocks_nothing() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Run).await;
    let class: StorageClass = from(json!({"metadata": {"name": format!("late-{}", env.namespace)},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    let classes: Api<StorageClass> = Api::all(env.client.clone());
    classes.create(&PostParams::default(), &class).await.expect("a class");
    let late: PersistentVolumeClaim = from(json!({"metadata": {"name": "late"}, "spec": {
        "storageClassName": class.name_any(), "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}}}}));
    env.api().create(&PostParams::default(), &late).await.expect("a claim");
    env.start();
    run_on(&env, "one", "late").await;
    // Waiting for the claim to be bound before creating the pod would never end.
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    pods_script.check().await;
}
