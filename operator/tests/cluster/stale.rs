//! Stale caches: the watches of the operator are held back, while its reads and writes pass.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::invariants::StatusRecorder;
use crate::kubelet::{PodAction, holding};
use crate::proxy::Proxy;
use crate::runs::{is_any, phase, text};
use crate::test_env::TestEnv;

const RESOURCES: [&str; 3] = ["jobs", "pods", "stageoneruns"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn lagging_watches_duplicate_nothing_and_revert_nothing() {
    let each = RESOURCES.iter().map(|resource| lagging(std::slice::from_ref(resource)));
    tokio::join!(futures::future::join_all(each), lagging(&RESOURCES));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_correction_from_before_the_deletion_of_a_job_applies_to_its_successor() {
    let mut env = TestEnv::new(holding([(StepName::Prepare, 1)])).await;
    let proxy = Proxy::before(&mut env).await;
    env.start();
    env.one("one", "").await;
    env.pod("one", StepName::Prepare, 0).await;
    let first = env.prepare_job("one").await;
    let lists = || proxy.requests().iter().filter(|request| request.path.ends_with("/stageoneruns")).count();
    proxy.hold("stageoneruns");
    let before = lists();
    env.edit("one", json!({"spec": {"pod": {"image": "registry/right"}}})).await;
    env.api::<Job>().delete(&first, &DeleteParams::background()).await.expect("it is deleted");
    let is_another = |job: &Job| job.name_any() != first;
    env.until_true("the deletion is observed", async || {
        lists() > before || env.jobs().await.iter().any(is_another)
    })
    .await;
    proxy.release("stageoneruns");
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let of_spec = |job: &Job| {
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        pod.is_some_and(|pod| pod.containers[0].image.as_deref() == Some("registry/right"))
    };
    let jobs = env.jobs().await;
    assert!(jobs.iter().filter(|job| is_another(job)).all(of_spec), "{jobs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_result_is_read_although_the_job_finished_before_its_pod_was_observed() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    let proxy = Proxy::before(&mut env).await;
    env.start();
    env.one("fails", "").await;
    env.one("gone", "").await;
    let pod = env.pod("gone", StepName::Generate, 0).await;
    env.pod("fails", StepName::Generate, 0).await;
    proxy.hold("pods");
    env.finish("fails", StepName::Generate, 0, 65, "no such image; fix the line").await;
    let status = env.until_one("fails", "ended", |status| status.succeeded() == Some(false)).await;
    assert!(
        text(&status, ConditionType::Succeeded).contains("no such image; fix the line"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );

    // Only the watch can deliver the result of a deleted pod.
    proxy.hold("jobs");
    env.finish("gone", StepName::Generate, 0, 0, "").await;
    let is_counted = |job: &Job| job.name_any().contains("-generate-") && is_any(job, &["Complete"]);
    env.until_true("its Job ends", async || env.jobs_of("gone").await.iter().any(is_counted)).await;
    env.confirm_deletion(&pod).await;
    let pods = env.api::<Pod>();
    env.until_true("it is gone", async || pods.get_opt(&pod.name_any()).await.expect("an answer").is_none())
        .await;
    let lists = || proxy.requests().iter().filter(|request| request.path.ends_with("/pods")).count();
    let before = lists();
    proxy.release("jobs");
    env.until_true("the pod is listed", async || lists() > before).await;
    proxy.release("pods");
    env.until_one("gone", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(env.jobs_of("gone").await.len(), 3, "no step ran twice");
}

/// Suspended, resumed, its Job deleted, and run again, with caches that are up to three seconds old.
async fn lagging(resources: &[&'static str]) {
    let mut env =
        TestEnv::new(holding([(StepName::Generate, 1), (StepName::Generate, 2), (StepName::Train, 1)])).await;
    let proxy = Proxy::before(&mut env).await;
    env.start();
    let recorder = StatusRecorder::start(&env).await;
    let lags = async {
        loop {
            resources.iter().for_each(|resource| proxy.hold(resource));
            tokio::time::sleep(Duration::from_secs(3)).await;
            resources.iter().for_each(|resource| proxy.release(resource));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let scenario = async {
        env.one("one", "").await;
        env.pod("one", StepName::Generate, 0).await;
        env.suspend("one").await;
        env.resume("one").await;
        env.until_true("it runs again", async || env.pods_started()[&StepName::Generate] == 2).await;
        let job = env.jobs().await.into_iter().find(|job| job.name_any().contains("-generate-"));
        let (jobs, job) = (env.api::<Job>(), job.expect("it runs").name_any());
        jobs.delete(&job, &DeleteParams::background()).await.expect("it is deleted");
        env.pod("one", StepName::Train, 0).await;
        env.edit("one", json!({"spec": {"rerun": 1}})).await;
        env.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await
    };
    let status = tokio::select! {
        status = scenario => status,
        () = lags => unreachable!("the loop never ends"),
    };
    recorder.check().await;
    // Suspended and resumed, deleted and created again, and once more in the rerun.
    let started = BTreeMap::from([(StepName::Prepare, 2), (StepName::Generate, 4), (StepName::Train, 2)]);
    assert_eq!(env.pods_started(), started, "with late {resources:?}; see {:?}", env.setup.log);
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    let mut jobs: BTreeMap<String, usize> = BTreeMap::new();
    for job in env.jobs().await {
        *jobs.entry(job.labels()["stic.dev/step"].clone()).or_default() += 1;
    }
    let left = [("prepare", 2), ("generate", 2), ("train", 1)].map(|(step, count)| (step.to_owned(), count));
    assert_eq!(jobs, BTreeMap::from(left), "with late {resources:?}; see {:?}", env.setup.log);
}
