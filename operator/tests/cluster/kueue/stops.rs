//! Queues that admit nothing: stopped, unknown, or without a ClusterQueue.

use kube::ResourceExt;
use serde_json::{Value, json};
use stic_contract::StepName::{Generate, Prepare, Train};

use crate::kubelet::PodAction;
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_stopped_queue_holds_runs_and_drains_them_only_if_it_says_so() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods = ScriptedPods::start(&env, |pod| match (pod.run.starts_with("running"), pod.step, pod.nth) {
        (true, Prepare, 1) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    let cases = [
        ("ClusterQueue", "Hold", false),
        ("ClusterQueue", "HoldAndDrain", true),
        ("LocalQueue", "Hold", false),
        ("LocalQueue", "HoldAndDrain", true),
    ];
    for (number, (kind, policy, drains)) in cases.into_iter().enumerate() {
        let queue = format!("q{number}");
        let (running, waiting) = (format!("running-{number}"), format!("waiting-{number}"));
        env.queue(&queue, 2).await;
        env.one_in(&queue, &running).await;
        env.pod(&running, Prepare, 0).await;
        let name = if kind == "LocalQueue" { queue.clone() } else { env.global(&queue) };
        env.change(kind, &name, json!({"spec": {"stopPolicy": policy}})).await;
        env.one_in(&queue, &waiting).await;
        let workload = env.workload(&waiting).await.name_any();
        env.queued(&waiting, &[&workload, &format!("{kind} {name} is"), "have its administrator start it"])
            .await;
        if drains {
            env.queued(
                &running,
                &[&format!("was evicted ({kind}Stopped"), &format!("{kind} {name} is"), "start it"],
            )
            .await;
        } else {
            env.finish(&running, Prepare, 0, 0, "").await;
            env.queued(&running, &["step generate", &format!("{kind} {name} is"), "start it"]).await;
        }
        env.change(kind, &name, json!({"spec": {"stopPolicy": "None"}})).await;
        env.succeeds(&running).await;
        env.succeeds(&waiting).await;
    }
    pods.check().await;
    env.expect_calm(&[(Prepare, 10), (Generate, 8), (Train, 8)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_queue_that_does_not_exist_is_named_until_it_is_created() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["LocalQueue gpu doesn't exist", "create it"]).await;
    env.local_queue("gpu").await;
    env.queued("one", &[&format!("ClusterQueue {} doesn't exist", env.global("gpu")), "create it"]).await;
    env.expect_calm(&[]).await;
    env.cluster_queue("gpu", 1).await;
    env.succeeds_without_retries("one").await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_queue_that_does_not_take_this_namespace_says_so() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 1).await;
    let selector = |labels: Value| json!({"spec": {"namespaceSelector": {"matchLabels": labels}}});
    env.change("ClusterQueue", &env.global("gpu"), selector(json!({"team": "other"}))).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["doesn't match ClusterQueue selector", "have the ClusterQueue select"]).await;
    env.change("ClusterQueue", &env.global("gpu"), selector(json!({"team": null}))).await;
    env.succeeds_without_retries("one").await;
}
