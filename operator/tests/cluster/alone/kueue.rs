//! Kueue unsuspends, changes and preempts Jobs, and the operator does not interfere.

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::kubelet::PodAction;
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;
use crate::workloads::{Kueue, VERSIONS, serve};

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn only_kueue_decides_when_a_queued_run_runs() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    for (run, version, served) in [
        ("old", "v1beta1", &VERSIONS[..1]),
        ("both", "v1beta2", &VERSIONS[..]),
        ("new", "v1beta2", &VERSIONS[1..]),
    ] {
        serve(&env.client, served).await;
        let kueue = Kueue::speaking(&env, version);
        kueue.has_room(false);
        scenario(&env, &kueue, run).await;
        kueue.alone_changed(&env, run).await;
    }
    pods_script.check().await;
}

/// Queued, admitted, preempted, suspended, resumed, and complete.
async fn scenario(env: &TestEnv, kueue: &Kueue, run: &str) {
    env.one_in("research", run).await;
    env.edit(run, json!({"spec": {"backoff": {"limit": 0}}})).await;
    let status = env.until_one(run, "is queued", |status| phase(status) == "Queued").await;
    assert!(
        text(&status, ConditionType::Succeeded).contains("queue research"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );
    assert!(env.pods_of(run).await.is_empty());
    kueue.has_room(true);
    let pod = env.pod(run, StepName::Generate, 0).await;
    assert_eq!(pod.spec.and_then(|spec| spec.node_selector).unwrap_or_default()["flavour"], "spot");
    env.until_one(run, "generates", |status| phase(status) == "Generating").await;
    kueue.has_room(false);
    env.until_one(run, "is queued again", |status| phase(status) == "Queued").await;
    env.wait_for_pods_to_end(run).await;
    kueue.has_room(true);
    let pod = env.pod(run, StepName::Generate, 0).await;
    let status = env.suspend(run).await;
    assert!(text(&status, ConditionType::Succeeded).ends_with("set spec.suspend to false to resume it"));
    env.resume(run).await;
    let again = env.pod(run, StepName::Generate, 0).await;
    assert_ne!(again.uid(), pod.uid());
    env.finish(run, StepName::Generate, 0, 0, "").await;
    let status = env.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(env.jobs_of(run).await.len(), 3, "{:?}", status.steps);
    kueue.has_room(false);
}
