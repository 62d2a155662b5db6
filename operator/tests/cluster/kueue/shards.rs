//! Sharded steps: partial admission, and an index that fails for good.

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName::{Generate, Prepare, Train};

use super::QUEUE;
use crate::kubelet::{PodAction, is_running, label};
use crate::runs::phase;
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn fewer_pods_at_once_generate_all_shards() {
    let mut env = TestEnv::new(|step, _| match step {
        Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 2).await;
    env.start();
    let annotations = json!({"kueue.x-k8s.io/job-min-parallelism": "1",
        "kueue.x-k8s.io/job-completions-equal-parallelism": "true"});
    let metadata = json!({"name": "one", "labels": {QUEUE: "gpu"}, "annotations": annotations});
    env.one_as(metadata, "  preferences: {shards: 3}\n").await;
    env.pod("one", Generate, 0).await;
    env.pod("one", Generate, 1).await;
    let job = env.jobs_of("one").await.into_iter().find(|job| job.labels()["stic.dev/step"] == "generate");
    let spec = job.and_then(|job| job.spec).expect("the Job");
    assert_eq!((spec.parallelism, spec.completions), (Some(2), Some(3)));
    assert_eq!(env.pods_of("one").await.iter().filter(|pod| is_running(pod)).count(), 2);
    for index in 0..3 {
        env.finish("one", Generate, index, 0, "").await;
    }
    env.succeeds("one").await;
    for job in env.jobs_of("one").await {
        let sharded = job.labels()["stic.dev/step"] == "generate";
        let annotations = job.annotations();
        assert_eq!(annotations.contains_key("kueue.x-k8s.io/job-min-parallelism"), sharded);
        assert!(!annotations.contains_key("kueue.x-k8s.io/job-completions-equal-parallelism"));
    }
    env.expect_calm(&[(Prepare, 1), (Generate, 3), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn an_index_that_failed_for_good_ends_the_step_and_frees_its_quota() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods = ScriptedPods::start(&env, |pod| match (pod.run.as_str(), pod.step, pod.index) {
        ("one", Generate, 1) => PodAction::Exit(70, "a bug"),
        ("one", Generate, _) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 3).await;
    env.start();
    let metadata = json!({"name": "one", "labels": {QUEUE: "gpu"}});
    env.one_as(metadata, "  preferences: {shards: 3}\n  backoff: {limit: 0}\n").await;
    let status = env.until_one("one", "failed", |status| phase(status) == "TrainerFailed").await;
    assert!(status.steps[1].message.as_ref().is_some_and(|it| it.contains("index 1 of 3")), "{status:#?}");
    env.until_true("its healthy pods end", async || {
        let pods = env.pods_of("one").await;
        !pods.iter().any(|pod| is_running(pod) && label(pod, "stic.dev/step") == "generate")
    })
    .await;
    // The next run needs all of the quota.
    let metadata = json!({"name": "two", "labels": {QUEUE: "gpu"}});
    env.one_as(metadata, "  preferences: {shards: 3}\n").await;
    env.succeeds("two").await;
    pods.check().await;
    env.expect_calm(&[(Prepare, 2), (Generate, 6), (Train, 1)]).await;
}
