//! StageTwoRuns and the StageOneRun that they start from.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use stic_contract::{Digest, StepName};
use stic_crds::ConditionType;
use stic_crds::status::RunStatus;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::kubelet::{PodAction, end_pod};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;

fn waits(status: &RunStatus) -> bool {
    phase(status) == "StageOneNotSucceeded"
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn stage_two_follows_its_stage_one_through_failure_and_deletion() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step, scripted.nth) {
            ("one", StepName::Train, 1) => PodAction::Exit(65, "invalid row; fix it"),
            ("one", StepName::Train, 2) => PodAction::Run,
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    // One is created before its upstream, one with it, and one after it has succeeded.
    env.two("two", "one").await;
    let status = env.until_two("two", "waiting", waits).await;
    assert!(
        text(&status, ConditionType::InputsReady).contains("StageOneRun one does not exist"),
        "{}",
        text(&status, ConditionType::InputsReady)
    );
    env.one("one", "").await;
    env.two("twin", "one").await;
    for two in ["two", "twin"] {
        let failed = |status: &RunStatus| {
            text(status, ConditionType::InputsReady).contains("failed: step train failed: invalid row")
        };
        let status = env.until_two(two, "reported", failed).await;
        assert_eq!(phase(&status), "StageOneFailed", "{two} waits, because it may be run again");
        assert!(
            text(&status, ConditionType::InputsReady).contains("raise its spec.retry"),
            "{}",
            text(&status, ConditionType::InputsReady)
        );
        assert!(env.jobs_of(two).await.is_empty());
    }
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    for two in ["two", "twin"] {
        let again = |status: &RunStatus| {
            text(status, ConditionType::InputsReady).contains("has not finished (phase Training)")
        };
        env.until_two(two, "reported", again).await;
    }
    env.finish("one", StepName::Train, 0, 0, "").await;
    for two in ["two", "twin"] {
        env.until_two(two, "is done", |status| phase(status) == "Succeeded").await;
        assert_eq!(env.jobs_of(two).await.len(), 3);
    }
    env.two("late", "one").await;
    env.until_two("late", "is done", |status| phase(status) == "Succeeded").await;
    env.delete_one("one").await;
    // Suspended, as it might otherwise start before the deletion is observed.
    env.two_with("too-late", "one", "  suspend: true\n").await;
    let gone = |status: &RunStatus| text(status, ConditionType::InputsReady).contains("does not exist");
    env.until_two("too-late", "reported", gone).await;
    let api = env.api::<StageTwoRun>();
    let done = api.get("two").await.expect("it exists").status.expect("a status");
    assert_eq!(phase(&done), "Succeeded", "a finished run does not need its upstream");
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_stage_two_that_has_started_keeps_its_inputs() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step) {
        ("rerun-two" | "deleted-two", StepName::Prepare | StepName::Describe) => PodAction::Run,
        ("rerun", StepName::Train) if scripted.nth == 2 => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    for one in ["rerun", "deleted"] {
        env.one(one, "").await;
        env.two(&format!("{one}-two"), one).await;
        env.pod(&format!("{one}-two"), StepName::Prepare, 0).await;
    }
    let twos = env.api::<StageTwoRun>();
    let before = twos.get("rerun-two").await.expect("it exists").status.and_then(|status| status.inputs);
    assert!(before.as_ref().is_some_and(|inputs| inputs.adapter.is_some()), "{before:?}");
    env.edit("rerun", json!({"spec": {"rerun": 1}})).await;
    env.delete_one("deleted").await;
    // Stage 1 now creates another adapter.
    let pod = env.pod("rerun", StepName::Train, 0).await;
    let mut result = crate::common::result(StepName::Train);
    let adapter = result.artifacts.last_mut().expect("an adapter");
    adapter.location.path = "coco-6k/adapter-4567".into();
    adapter.digest = Digest::of(b"another");
    end_pod(&env.api(), &pod, 0, &result.to_termination_message()).await;
    env.until_one("rerun", "is done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    for one in ["rerun", "deleted"] {
        let two = format!("{one}-two");
        env.finish(&two, StepName::Prepare, 0, 0, "").await;
        env.finish(&two, StepName::Describe, 0, 0, "").await;
        let status = env.until_two(&two, "is done", |status| phase(status) == "Succeeded").await;
        let adapter = |inputs: Option<stic_crds::status::Inputs>| inputs.and_then(|inputs| inputs.adapter);
        assert_eq!(adapter(status.inputs), adapter(before.clone()), "{two}");
        assert_eq!(configs(&env, &two).await, 3, "{two}: every step's run config names the same adapter");
    }
    pods_script.check().await;
}

/// How many run configs of a run name the first adapter of stage 1.
async fn configs(env: &TestEnv, run: &str) -> usize {
    let api: Api<ConfigMap> = env.api();
    let of_run = kube::api::ListParams::default().labels(&format!("stic.dev/run={run}"));
    let maps = api.list(&of_run).await.expect("ConfigMaps").items;
    let adapter = crate::common::artifact(stic_contract::ArtifactKind::Adapter, StepName::Train);
    let texts = maps.iter().flat_map(|map| map.data.iter().flat_map(|data| data.values()));
    texts.filter(|text| text.contains(&adapter.location.path)).count()
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn another_model_or_a_changed_adapter_fails_stage_two_with_a_remedy() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let changed =
        "adapter-0123: has digest sha256:2, but the run that made it recorded sha256:1; run that one again";
    let pods_script =
        ScriptedPods::start(&env, move |scripted| match (scripted.run.as_str(), scripted.step) {
            ("model", StepName::Prepare) => PodAction::Run,
            ("adapter", StepName::Prepare) => PodAction::Exit(65, changed),
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    env.one("one", "").await;
    env.two("model", "one").await;
    env.two("adapter", "one").await;
    let pod = env.pod("model", StepName::Prepare, 0).await;
    let mut result = crate::common::result(StepName::Prepare);
    result.inputs.as_mut().expect("digests").model = Digest::of(b"another model");
    end_pod(&env.api(), &pod, 0, &result.to_termination_message()).await;
    let over = |status: &RunStatus| status.succeeded() == Some(false);
    let status = env.until_two("model", "failed", over).await;
    assert_eq!(phase(&status), "ModelChanged");
    assert!(
        text(&status, ConditionType::Stalled).ends_with("restore that model, or run stage 1 on this one")
    );
    let status = env.until_two("adapter", "failed", over).await;
    assert_eq!(phase(&status), "DataInvalid");
    assert!(
        text(&status, ConditionType::InputsReady).ends_with(changed),
        "{}",
        text(&status, ConditionType::InputsReady)
    );
    for two in ["model", "adapter"] {
        assert_eq!(env.jobs_of(two).await.len(), 1, "{two} holds no GPU");
    }
    let ones = env.api::<StageOneRun>();
    ones.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    pods_script.check().await;
}
