//! Under Kueue: it unsuspends Jobs and changes them, takes them back, and nobody of us interferes.

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName;

use crate::director::Director;
use crate::kubelet::Act;
use crate::runs::{phase, text};
use crate::workloads::{Kueue, QUEUE, VERSIONS, serve};
use crate::world::World;

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
    world.one_labelled(run, &json!({QUEUE: "research"})).await;
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
    world.pods_end(run).await;
    kueue.has_room(true);
    let pod = world.pod(run, StepName::Generate, 0).await;
    let status = world.hold(run).await;
    assert!(text(&status, "Succeeded").ends_with("set spec.suspend to false to go on"));
    world.edit(run, json!({"spec": {"suspend": false}})).await;
    let again = world.pod(run, StepName::Generate, 0).await;
    assert_ne!(again.uid(), pod.uid());
    world.finish(run, StepName::Generate, 0, 0, "").await;
    let status = world.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs_of(run).await.len(), 3, "{:?}", status.steps);
    kueue.has_room(false);
}
