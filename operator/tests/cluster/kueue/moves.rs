//! Labels of a run that change while it waits: its queue and its priority.

use kube::ResourceExt;
use serde_json::{Value, json};
use stic_contract::StepName::{Generate, Prepare, Train};
use stic_crds::ConditionType;

use super::{PRIORITY, QUEUE};
use crate::kubelet::PodAction;
use crate::runs::{phase, text};
use crate::test_env::{TestEnv, until};
use crate::workloads::active;

async fn label(env: &TestEnv, run: &str, key: &str, value: Value) {
    env.edit(run, json!({"metadata": {"labels": {key: value}}})).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn relabelling_a_queued_run_moves_its_job() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("full", 0).await;
    env.queue("free", 1).await;
    env.start();
    env.one_in("full", "one").await;
    env.queued("one", &["queue full", "maximum capacity"]).await;
    let job = env.jobs_of("one").await[0].uid();
    // Kueue's webhook rejects a name that no queue can have, and the run says so.
    label(&env, "one", QUEUE, json!("Not_A_Name")).await;
    env.until_one("one", "told that the label is wrong", |status| {
        text(status, ConditionType::Succeeded).contains("queue-name")
            && text(status, ConditionType::Succeeded).contains("Not_A_Name")
    })
    .await;
    // Nevertheless it can be suspended and resumed.
    for suspend in [true, false] {
        env.edit("one", json!({"spec": {"suspend": suspend}})).await;
        env.until_true("its Workload follows", async || active(&env.workload("one").await) != suspend).await;
    }
    label(&env, "one", QUEUE, json!("free")).await;
    env.succeeds("one").await;
    let jobs = env.jobs_of("one").await;
    assert!(jobs.iter().any(|moved| moved.uid() == job), "the same Job moved");
    assert!(jobs.iter().all(|job| job.labels()[QUEUE] == "free"));
    env.expect_calm(&[(Prepare, 1), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_without_its_label_leaves_the_queue() {
    let mut env = TestEnv::new(|step, _| match step {
        Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("full", 0).await;
    env.start();
    env.one_in("full", "one").await;
    env.queued("one", &["maximum capacity"]).await;
    // Suspended, it leaves the queue only when it is resumed.
    env.suspend("one").await;
    label(&env, "one", QUEUE, Value::Null).await;
    env.until_one("one", "still suspended", |status| phase(status) == "Suspended").await;
    env.resume("one").await;
    env.pod("one", Generate, 0).await;
    env.until_true("its Workload is gone", async || env.workloads().await.is_empty()).await;
    // A step that runs keeps its place, and the next one goes where the label says.
    env.queue("gpu", 1).await;
    label(&env, "one", QUEUE, json!("gpu")).await;
    env.finish("one", Generate, 0, 0, "").await;
    env.succeeds("one").await;
    let queues: Vec<_> =
        env.jobs_of("one").await.iter().map(|job| job.labels().get(QUEUE).cloned()).collect();
    assert_eq!(queues, [None, None, Some("gpu".to_owned())], "generate, prepare and train");
    env.expect_calm(&[(Prepare, 1), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_job_that_kueue_puts_into_the_default_queue_stays_there() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("default", 0).await;
    // Kueue adds the label only once it knows the queue.
    env.until_true("the queue is active", async || {
        let queue = env.kueue("LocalQueue").get("default").await.expect("a queue");
        super::is(&queue, "Active", "True")
    })
    .await;
    env.start();
    env.one("one", "").await;
    env.queued("one", &["waits in queue default", "maximum capacity"]).await;
    let job = env.jobs_of("one").await[0].uid();
    env.set_quota("default", 1).await;
    env.succeeds("one").await;
    assert!(env.jobs_of("one").await.iter().any(|kept| kept.uid() == job), "it was not replaced");
    env.expect_calm(&[(Prepare, 1), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn the_priority_of_a_queued_run_follows_its_label() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 0).await;
    for (name, value) in [("low", 1), ("high", 1000)] {
        env.set("WorkloadPriorityClass", &env.global(name), &json!({"value": value})).await;
    }
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["maximum capacity"]).await;
    for (class, priority) in [("low", 1), ("high", 1000)] {
        label(&env, "one", PRIORITY, json!(env.global(class))).await;
        until("the priority", async || {
            (env.workload("one").await.data["spec"]["priority"] == priority).then_some(())
        })
        .await;
    }
    // Kueue keeps a priority class: removing it from the run changes only its later Jobs.
    label(&env, "one", PRIORITY, Value::Null).await;
    env.set_quota("gpu", 1).await;
    env.succeeds_without_retries("one").await;
}
