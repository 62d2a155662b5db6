//! Under Kueue: it unsuspends Jobs and changes them, takes them back, and nobody of us interferes.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stic_contract::StepName;

use crate::director::Director;
use crate::kubelet::Act;
use crate::runs::{phase, text};
use crate::workloads::{Kueue, QUEUE, VERSIONS, serve};
use crate::world::{World, until};

#[tokio::test]
#[ignore = "needs a cluster"]
async fn kueue_alone_decides_when_a_queued_run_runs() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    for (run, version, served) in [
        ("old", "v1beta1", &VERSIONS[..1]),
        ("both", "v1beta2", &VERSIONS[..]),
        ("new", "v1beta2", &VERSIONS[1..]),
    ] {
        serve(&world.client, served).await;
        let kueue = Kueue::speaking(&world, version);
        kueue.has_room(false);
        life(&world, &kueue, run).await;
        kueue.alone_changed(&world, run).await;
    }
    director.check().await;
}

/// Queued, admitted, preempted, held, let go, and done.
async fn life(world: &World, kueue: &Kueue, run: &str) {
    let spec: Value = serde_saphyr::from_str(crate::common::STAGE_ONE).expect("YAML");
    let object = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": run, "labels": {QUEUE: "research"}}, "spec": spec});
    let api: Api<stic_crds::StageOneRun> = world.api();
    api.patch(run, &PatchParams::apply("test"), &Patch::Apply(&object)).await.expect("a run");
    world.edit(run, json!({"spec": {"backoff": {"limit": 0}}})).await;
    let status = world.until_one(run, "is queued", |status| phase(status) == "Queued").await;
    assert!(text(&status, "Succeeded").contains("queue research"), "{}", text(&status, "Succeeded"));
    assert!(world.pods_of(run).await.is_empty());
    kueue.has_room(true);
    let pod = world.pod(run, StepName::Generate, 0).await;
    assert_eq!(pod.spec.and_then(|spec| spec.node_selector).unwrap_or_default()["flavour"], "spot");
    world.until_one(run, "generates", |status| phase(status) == "Generating").await;
    kueue.has_room(false);
    world.until_one(run, "is queued again", |status| phase(status) == "Queued").await;
    until("its pod gone", async || running(world, run).await.is_none().then_some(())).await;
    kueue.has_room(true);
    let pod = world.pod(run, StepName::Generate, 0).await;
    world.edit(run, json!({"spec": {"suspend": true}})).await;
    let status = world.until_one(run, "is held", |status| phase(status) == "Suspended").await;
    assert!(text(&status, "Succeeded").ends_with("set spec.suspend to false to go on"));
    until("its pod gone", async || running(world, run).await.is_none().then_some(())).await;
    world.edit(run, json!({"spec": {"suspend": false}})).await;
    let again = world.pod(run, StepName::Generate, 0).await;
    assert_ne!(again.uid(), pod.uid());
    world.finish(run, StepName::Generate, 0, 0, "").await;
    let status = world.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs_of(run).await.len(), 3, "{:?}", status.steps);
    kueue.has_room(false);
}

async fn running(world: &World, run: &str) -> Option<String> {
    let pods = world.pods_of(run).await;
    let running = |pod: &&k8s_openapi::api::core::v1::Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    pods.iter().find(running).map(ResourceExt::name_any)
}
