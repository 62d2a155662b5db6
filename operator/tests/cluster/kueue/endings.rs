//! Runs that end, fail, are deleted or run again, and leave nothing in their queue that blocks others.

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName::{Generate, Prepare, Train};
use stic_crds::ConditionType;

use super::{QUEUE, is};
use crate::kubelet::{PodAction, holding};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;

/// The names of the Workloads that have not finished and are not deactivated.
async fn open_workloads(env: &TestEnv) -> Vec<String> {
    let workloads = env.workloads().await;
    let open = |workload: &&kube::core::DynamicObject| {
        !is(workload, "Finished", "True") && crate::workloads::active(workload)
    };
    workloads.iter().filter(open).map(ResourceExt::name_any).collect()
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_that_is_deleted_or_ends_does_not_block_a_strict_queue() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods = ScriptedPods::start(&env, |pod| match pod.run.as_str() {
        "late" => PodAction::Run,
        "bad" => PodAction::Exit(65, "no images"),
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 1).await;
    let strict = json!({"spec": {"queueingStrategy": "StrictFIFO"}});
    env.change("ClusterQueue", &env.global("gpu"), strict).await;
    env.start();
    // It holds the quota until its deadline.
    env.one_as(json!({"name": "late", "labels": {QUEUE: "gpu"}}), "  activeDeadlineSeconds: 10\n").await;
    env.pod("late", Prepare, 0).await;
    for run in ["gone", "bad", "tail"] {
        env.one_in("gpu", run).await;
        env.queued(run, &["queue gpu"]).await;
    }
    env.delete_one("gone").await;
    env.until_one("late", "too late", |status| phase(status) == "DeadlineExceeded").await;
    env.until_one("bad", "failed", |status| phase(status) == "DataInvalid").await;
    env.succeeds("tail").await;
    env.until_true("no Workload is left", async || open_workloads(&env).await.is_empty()).await;
    assert!(env.jobs_of("gone").await.is_empty(), "it is deleted with its run");
    // Retried, it queues again.
    env.edit("bad", json!({"spec": {"retry": 1}})).await;
    env.until_true("failed again", async || {
        env.pods_started().get(&Prepare) == Some(&4)
            && phase(&env.status_of("bad").await) == "DataInvalid"
            && open_workloads(&env).await.is_empty()
    })
    .await;
    pods.check().await;
    env.expect_calm(&[(Prepare, 4), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_rerun_while_queued_replaces_the_job_in_the_queue() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 0).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["maximum capacity"]).await;
    let first = env.workload("one").await.name_any();
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    env.until_true(
        "one Workload of the rerun",
        async || matches!(&open_workloads(&env).await[..], [second] if *second != first),
    )
    .await;
    let second = env.workload("one").await.name_any();
    env.queued("one", &[&second]).await;
    env.set_quota("gpu", 1).await;
    env.succeeds_without_retries("one").await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_that_kueue_gives_too_little_time_fails_and_frees_its_quota() {
    let mut env = TestEnv::new(holding([(Prepare, 1)])).await;
    env.queue("gpu", 1).await;
    env.start();
    let labels = json!({QUEUE: "gpu", "kueue.x-k8s.io/max-exec-time-seconds": "5"});
    env.one_labelled("long", &labels).await;
    env.pod("long", Prepare, 0).await;
    env.one_in("gpu", "next").await;
    let status = env.until_one("long", "ended", |status| phase(status) == "WorkloadDeactivated").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("maximum execution time") && message.contains("raise spec.retry"), "{message}");
    env.until_true("no Job is left", async || env.jobs_of("long").await.is_empty()).await;
    env.succeeds("next").await;
    env.expect_calm(&[(Prepare, 2), (Generate, 1), (Train, 1)]).await;
}
