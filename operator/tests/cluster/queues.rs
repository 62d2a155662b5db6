//! Jobs that something else than `spec.suspend` suspends, and Workloads that never run.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::kubelet::PodAction;
use crate::runs::{phase, text};
use crate::test_env::{TestEnv, until};
use crate::workloads::{QUEUE, active, workload_of, workloads};

async fn patch_job(env: &TestEnv, name: &str, patch: Value) -> Job {
    let patch = Patch::Merge(patch);
    env.api::<Job>().patch(name, &PatchParams::default(), &patch).await.expect("it is changed")
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn only_what_the_operator_suspended_is_resumed_by_it() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    env.until_one("one", "generates", |status| phase(status) == "Generating").await;
    let job = env.pod("one", StepName::Generate, 0).await.labels()["job-name"].clone();
    let suspended = patch_job(&env, &job, json!({"spec": {"suspend": true}})).await;
    let status = env.until_one("one", "waits", |status| phase(status) == "Queued").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("not spec.suspend") && message.contains(&job), "{message}");
    // Reconciled again, the Job still stays as it is.
    let before = env.reconciliations().await;
    env.edit("one", json!({"metadata": {"labels": {"team": "vision"}}})).await;
    env.until_true("reconciled again", async || env.reconciliations().await > before).await;
    let current = env.api::<Job>().get(&job).await.expect("it exists");
    assert_eq!(current.metadata.generation, suspended.metadata.generation, "there is no fight");
    // A queue is what the message advises.
    env.move_to("research", "one").await;
    until("moved to the queue", async || {
        let job = env.api::<Job>().get(&job).await.expect("it exists");
        (job.labels().get(QUEUE).map(String::as_str) == Some("research")).then_some(())
    })
    .await;
    patch_job(&env, &job, json!({"spec": {"suspend": false}})).await;
    env.until_one("one", "generates again", |status| phase(status) == "Generating").await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_workload_that_kueue_deactivated_ends_the_run_and_its_job() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let workloads = workloads(&env).await;
    env.start();
    env.one_in("research", "one").await;
    let name = env.prepare_job("one").await;
    let job = env.api::<Job>().get(&name).await.expect("it exists");
    let workload = workload_of(&job);
    let created: DynamicObject =
        workloads.create(&PostParams::default(), &workload).await.expect("a Workload");
    let quota = json!([{"type": "QuotaReserved", "status": "False", "reason": "WaitingForQuota",
        "message": "insufficient quota for cpu"}]);
    let conditions = Patch::Merge(json!({"status": {"conditions": quota}}));
    let parameters = PatchParams::default();
    workloads.patch_status(&created.name_any(), &parameters, &conditions).await.expect("its status");
    let status = env
        .until_one("one", "explained", |status| {
            text(status, ConditionType::Succeeded).contains("insufficient quota for cpu")
        })
        .await;
    assert_eq!(phase(&status), "Queued");
    assert_eq!(status.steps[0].workload, Some(created.name_any()));
    // An administrator holds it back. Suspending and resuming the run does not change that.
    let patch = Patch::Merge(json!({"spec": {"active": false}}));
    workloads.patch(&created.name_any(), &parameters, &patch).await.expect("it is changed");
    env.edit("one", json!({"spec": {"suspend": true}})).await;
    env.until_one("one", "suspended", |status| phase(status) == "Suspended").await;
    env.resume("one").await;
    env.until_one("one", "deactivated", |status| {
        text(status, ConditionType::Succeeded).contains("was deactivated")
    })
    .await;
    assert!(!active(&workloads.get(&created.name_any()).await.expect("it exists")));
    let evicted = json!([{"type": "Evicted", "status": "True", "reason": "DeactivatedDueToRequeuingLimitExceeded",
        "message": "exceeding the maximum number of re-queuing retries"}]);
    let conditions = Patch::Merge(json!({"status": {"conditions": evicted}}));
    workloads.patch_status(&created.name_any(), &parameters, &conditions).await.expect("its status");
    let status = env.until_one("one", "failed", |status| phase(status) == "WorkloadDeactivated").await;
    assert!(text(&status, ConditionType::Succeeded).contains("re-queuing retries"));
    env.until_true("its Job is deleted", async || env.jobs_of("one").await.is_empty()).await;
}
