//! Runs that have ended, are run again, or have the longest possible name.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::kubelet::PodAction;
use crate::node::Node;
use crate::runs::phase;
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{TestEnv, until};

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_has_ended_stays_so_whatever_happens_to_its_children_and_the_operator() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step, scripted.nth) {
            ("failed", StepName::Train, 1) => PodAction::Exit(65, "invalid row; fix it"),
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    let runs = ["done", "failed"];
    for run in runs {
        env.one(run, "").await;
    }
    for run in runs {
        env.until_one(run, "has ended", |status| status.succeeded().is_some()).await;
    }
    env.kill();
    let jobs = env.api::<Job>();
    for job in env.jobs().await {
        jobs.delete(&job.name_any(), &DeleteParams::background()).await.expect("it is deleted");
    }
    env.edit("done", json!({"spec": {"backoff": {"limit": 9}, "suspend": true}})).await;
    env.edit("failed", json!({"spec": {"pod": {"nodeSelector": {"disk": "large"}}}})).await;
    env.start();
    for run in runs {
        env.until_one(run, "reconciled", |status| status.observed_generation == 2).await;
    }
    env.resume("done").await;
    env.until_one("done", "reconciled", |status| status.observed_generation == 3).await;
    assert!(env.jobs().await.is_empty(), "a run that has ended never starts again");
    for run in runs {
        env.edit(run, json!({"spec": {"rerun": 1}})).await;
        let again = |status: &stic_crds::RunStatus| status.rerun == 1 && phase(status) == "Succeeded";
        let status = env.until_one(run, "is done again", again).await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
        assert_eq!(env.jobs_of(run).await.len(), 3);
    }
    for run in runs {
        // As a GitOps tool does when it reverts to an older commit.
        env.edit(run, json!({"spec": {"rerun": 0}})).await;
    }
    for run in runs {
        let generation = if run == "done" { 5 } else { 4 };
        let status =
            env.until_one(run, "reconciled", |status| status.observed_generation == generation).await;
        assert_eq!((status.rerun, phase(&status)), (1, "Succeeded"), "a lower rerun is none");
        assert_eq!(env.jobs_of(run).await.len(), 3);
    }
    env.edit("done", json!({"spec": {"rerun": 1}})).await;
    let again = |status: &stic_crds::RunStatus| status.rerun == 2 && phase(status) == "Succeeded";
    env.until_one("done", "is done again, although its rerun was lowered in between", again).await;
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_rerun_replaces_one_that_is_still_running() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.step, scripted.nth) {
        (StepName::Train, 1) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    let first = env.pod("one", StepName::Train, 0).await;
    let node = Node::new(&env).await;
    node.bind_pod(&first).await;
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    let old = first.owner_references()[0].name.clone();
    until("the Job of the first gone", async || {
        env.api::<Job>().get_opt(&old).await.expect("an answer").is_none().then_some(())
    })
    .await;
    let waits = |status: &stic_crds::RunStatus| {
        status.rerun == 1
            && crate::runs::text(status, ConditionType::Succeeded)
                .contains("step train starts once the pods of its previous Job have ended")
    };
    env.until_one("one", "waiting", waits).await;
    let trains =
        env.pods_of("one").await.iter().filter(|pod| crate::kubelet::step(pod) == StepName::Train).count();
    assert_eq!(trains, 1, "two pods of one step would write at once");
    env.confirm_deletion(&first).await;
    let status =
        env.until_one("one", "done", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    node.remove().await;
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn the_longest_name_works_with_shards_and_a_longer_one_is_rejected() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Succeed).await;
    env.start();
    let (one, two) = ("a".repeat(40), "b".repeat(40));
    env.one_with_claim(&one, "  preferences: {shards: 12}\n").await;
    env.two(&two, &one).await;
    let ones = env.api::<StageOneRun>();
    let api: Api<StageTwoRun> = env.api();
    let longer = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": "a".repeat(41)}, "spec": ones.get(&one).await.expect("it exists").spec});
    let refused = ones.patch(&"a".repeat(41), &PatchParams::apply("test"), &Patch::Apply(&longer)).await;
    let message = refused.expect_err("it is too long").to_string();
    assert!(
        message.contains("must have at most 40 characters") && message.contains("choose another name"),
        "{message}"
    );
    env.until_one(&one, "is done", |status| phase(status) == "Succeeded").await;
    env.until_two(&two, "is done", |status| phase(status) == "Succeeded").await;
    assert!(api.get_opt(&two).await.expect("an answer").is_some());
    let pods = env.pods_of(&one).await;
    assert_eq!(pods.len(), 14);
    for pod in pods {
        let name = pod.name_any();
        let host = pod.spec.and_then(|spec| spec.hostname).unwrap_or_default();
        assert!(name.len() <= 63 && host.len() <= 63, "{name} {host}");
    }
    pods_script.check().await;
}
