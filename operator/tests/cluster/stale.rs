//! What the operator sees is old: its watches are held back, while its reads and writes pass.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use stic_contract::StepName;

use crate::kubelet::Act;
use crate::proxy::Proxy;
use crate::record::Recorder;
use crate::runs::{is_any, phase, text};
use crate::world::World;

const RESOURCES: [&str; 3] = ["jobs", "pods", "stageoneruns"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn watches_that_lag_double_nothing_and_take_nothing_back() {
    let each = RESOURCES.iter().map(|resource| lagging(std::slice::from_ref(resource)));
    tokio::join!(futures::future::join_all(each), lagging(&RESOURCES));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn what_is_corrected_before_a_job_is_deleted_holds_for_its_successor() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let proxy = Proxy::before(&mut world).await;
    world.start();
    world.one("one", "").await;
    world.pod("one", StepName::Prepare, 0).await;
    let first = world.prepare_job("one").await;
    let looks = || proxy.seen().iter().filter(|seen| seen.path.ends_with("/stageoneruns")).count();
    proxy.hold("stageoneruns");
    let before = looks();
    world.edit("one", json!({"spec": {"pod": {"image": "registry/right"}}})).await;
    world.api::<Job>().delete(&first, &DeleteParams::background()).await.expect("it is deleted");
    let is_another = |job: &Job| job.name_any() != first;
    world
        .until_true("the deletion is seen", async || {
            looks() > before || world.jobs().await.iter().any(is_another)
        })
        .await;
    proxy.release("stageoneruns");
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let of_spec = |job: &Job| {
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        pod.is_some_and(|pod| pod.containers[0].image.as_deref() == Some("registry/right"))
    };
    let jobs = world.jobs().await;
    assert!(jobs.iter().filter(|job| is_another(job)).all(of_spec), "{jobs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn what_a_trainer_said_is_heard_where_its_job_is_over_before_its_end_is_seen() {
    let mut world = World::new(|step, _| match step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let proxy = Proxy::before(&mut world).await;
    world.start();
    world.one("fails", "").await;
    world.one("gone", "").await;
    let pod = world.pod("gone", StepName::Generate, 0).await;
    world.pod("fails", StepName::Generate, 0).await;
    proxy.hold("pods");
    world.finish("fails", StepName::Generate, 0, 65, "so it is; mend it").await;
    let status = world.until_one("fails", "over", |status| status.succeeded() == Some(false)).await;
    assert!(text(&status, "Succeeded").contains("so it is; mend it"), "{}", text(&status, "Succeeded"));

    // Of a pod that is deleted nobody but the watch can tell.
    proxy.hold("jobs");
    world.finish("gone", StepName::Generate, 0, 0, "").await;
    let is_counted = |job: &Job| job.name_any().contains("-generate-") && is_any(job, &["Complete"]);
    world.until_true("its Job ends", async || world.jobs_of("gone").await.iter().any(is_counted)).await;
    world.let_go(&pod).await;
    let pods = world.api::<Pod>();
    world
        .until_true("it is gone", async || pods.get_opt(&pod.name_any()).await.expect("an answer").is_none())
        .await;
    let looks = || proxy.seen().iter().filter(|seen| seen.path.ends_with("/pods")).count();
    let before = looks();
    proxy.release("jobs");
    world.until_true("the pod is looked for", async || looks() > before).await;
    proxy.release("pods");
    world.until_one("gone", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs_of("gone").await.len(), 3, "no step was done twice");
}

/// Held, resumed, a Job deleted, and run again, on views that are up to three seconds old.
async fn lagging(resources: &[&'static str]) {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Generate, 1 | 2) | (StepName::Train, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let proxy = Proxy::before(&mut world).await;
    world.start();
    let recorder = Recorder::start(&world).await;
    let lags = async {
        loop {
            resources.iter().for_each(|resource| proxy.hold(resource));
            tokio::time::sleep(Duration::from_secs(3)).await;
            resources.iter().for_each(|resource| proxy.release(resource));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let lives = async {
        world.one("one", "").await;
        world.pod("one", StepName::Generate, 0).await;
        world.hold("one").await;
        world.edit("one", json!({"spec": {"suspend": false}})).await;
        world.until_true("it runs again", async || world.pods_started()[&StepName::Generate] == 2).await;
        let job = world.jobs().await.into_iter().find(|job| job.name_any().contains("-generate-"));
        let (jobs, job) = (world.api::<Job>(), job.expect("it runs").name_any());
        jobs.delete(&job, &DeleteParams::background()).await.expect("it is deleted");
        world.pod("one", StepName::Train, 0).await;
        world.edit("one", json!({"spec": {"rerun": 1}})).await;
        world.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await
    };
    let status = tokio::select! {
        status = lives => status,
        () = lags => unreachable!("it lags for ever"),
    };
    recorder.check().await;
    // Held and resumed, deleted and made again, and once more in the rerun.
    let started = BTreeMap::from([(StepName::Prepare, 2), (StepName::Generate, 4), (StepName::Train, 2)]);
    assert_eq!(world.pods_started(), started, "with late {resources:?}; see {:?}", world.setup.log);
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    let mut jobs: BTreeMap<String, usize> = BTreeMap::new();
    for job in world.jobs().await {
        *jobs.entry(job.labels()["stic.dev/step"].clone()).or_default() += 1;
    }
    let left = [("prepare", 2), ("generate", 2), ("train", 1)].map(|(step, count)| (step.to_owned(), count));
    assert_eq!(jobs, BTreeMap::from(left), "with late {resources:?}; see {:?}", world.setup.log);
}
