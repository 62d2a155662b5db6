//! Runs that Kueue admits at once, later, and again after it has preempted them.

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName::{Generate, Prepare, Train};

use super::{PRIORITY, QUEUE, is};
use crate::kubelet::{PodAction, holding, is_running};
use crate::lifecycle::serve;
use crate::test_env::TestEnv;

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn an_admitted_run_succeeds_on_the_nodes_of_its_flavor() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    let status = env.succeeds("one").await;
    for pod in env.pods_of("one").await {
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.node_selector.unwrap_or_default()["pool"], "spot");
        let tolerates = |key: &str| {
            spec.tolerations.iter().flatten().any(|toleration| toleration.key.as_deref() == Some(key))
        };
        assert!(tolerates("spot"), "{:?}", spec.tolerations);
    }
    let workloads = env.workloads().await;
    let names: Vec<_> = workloads.iter().map(ResourceExt::name_any).collect();
    assert_eq!(workloads.len(), 3, "{names:?}");
    for step in &status.steps {
        assert!(step.workload.as_ref().is_some_and(|name| names.contains(name)), "{step:?}: {names:?}");
    }
    env.until_true("all Workloads finish", async || {
        let workloads = env.workloads().await;
        workloads.iter().all(|workload| is(workload, "Finished", "True"))
    })
    .await;
    env.expect_calm(&[(Prepare, 1), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_that_asks_for_more_than_the_quota_waits_until_it_is_raised() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 0).await;
    env.start();
    env.one_in("gpu", "one").await;
    let workload = env.workload("one").await.name_any();
    let status = env.queued("one", &[&workload, "insufficient quota", "have the quota raised"]).await;
    assert_eq!(status.steps[0].workload.as_ref(), Some(&workload));
    let shown = env.stic(&["get", "s1/one"]);
    assert!(
        shown.contains(&format!("workload/{workload}")) && shown.contains("insufficient quota"),
        "{shown}"
    );
    env.expect_calm(&[]).await;
    env.set_quota("gpu", 1).await;
    env.succeeds_without_retries("one").await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_waits_behind_another_and_goes_on() {
    let mut env = TestEnv::new(holding([(Prepare, 1)])).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "first").await;
    env.pod("first", Prepare, 0).await;
    env.one_in("gpu", "second").await;
    let workload = env.workload("second").await.name_any();
    env.queued("second", &[&workload, "queue gpu", "insufficient unused quota"]).await;
    env.expect_calm(&[(Prepare, 1)]).await;
    env.finish("first", Prepare, 0, 0, "").await;
    env.succeeds("first").await;
    env.succeeds("second").await;
    env.expect_calm(&[(Prepare, 2), (Generate, 2), (Train, 2)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_preempted_run_says_by_whom_and_resumes() {
    let mut env = TestEnv::new(holding([(Train, 1), (Prepare, 2)])).await;
    env.queue("gpu", 1).await;
    for (name, value) in [("low", 1), ("high", 1000)] {
        env.set("WorkloadPriorityClass", &env.global(name), &json!({"value": value})).await;
    }
    let served = serve(&env.address).await;
    env.start();
    let labels = |class: &str| json!({QUEUE: "gpu", PRIORITY: env.global(class)});
    env.one_labelled("low", &labels("low")).await;
    env.until_one("low", "under way", |status| status.progress.is_some()).await;
    env.one_labelled("high", &labels("high")).await;
    env.pod("high", Prepare, 0).await;
    let preemptor = env.jobs_of("high").await[0].uid().expect("it was created");
    env.queued("low", &["was evicted (Preempted", &format!("JobUID: {preemptor}")]).await;
    let low = env.pods_of("low").await;
    assert!(!low.iter().any(is_running), "it has no pod");
    env.finish("high", Prepare, 0, 0, "").await;
    env.succeeds("high").await;
    let status = env.succeeds("low").await;
    assert_eq!(env.jobs_of("low").await.len(), 3, "{:?}", status.steps);
    env.expect_calm(&[(Prepare, 2), (Generate, 2), (Train, 3)]).await;
    served.abort();
}
