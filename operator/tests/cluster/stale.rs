//! What the operator sees is old: its watches are held back, while its reads and writes pass.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use stic_contract::StepName;

use crate::kubelet::Act;
use crate::proxy::Proxy;
use crate::record::Recorder;
use crate::runs::phase;
use crate::world::World;

const RESOURCES: [&str; 3] = ["jobs", "pods", "stageoneruns"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn watches_that_lag_double_nothing_and_take_nothing_back() {
    let each = RESOURCES.iter().map(|resource| lagging(std::slice::from_ref(resource)));
    tokio::join!(futures::future::join_all(each), lagging(&RESOURCES));
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
        let (jobs, job) = (world.api::<k8s_openapi::api::batch::v1::Job>(), job.expect("it runs").name_any());
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
