//! Claims that are not there, not bound, lost, or on their way out.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::status::{INPUTS_READY, RunStatus};

use crate::director::Director;
use crate::kubelet::Act;
use crate::node::{Node, bind, from, lose};
use crate::runs::{phase, text};
use crate::world::{World, until};

/// Less than the 15 seconds after which an operator looks again by itself.
const SOON: Duration = Duration::from_secs(12);

fn ready(status: &RunStatus) -> Option<(&str, &str)> {
    status.condition(INPUTS_READY).map(|condition| (condition.status.as_str(), condition.reason.as_str()))
}

/// Applies a run that reads its images from `claim`.
async fn run_on(world: &World, name: &str, claim: &str) {
    let spec = crate::common::STAGE_ONE.replace("claimName: coco,", &format!("claimName: {claim},"));
    world.one_of(name, &spec).await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_claim_that_comes_or_comes_back_is_noticed_at_once() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step) {
        ("used", StepName::Generate) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let claims = world.api::<PersistentVolumeClaim>();
    world.claim("lost").await;
    bind(&world, "lost").await;
    lose(&world, "lost").await;
    let node = Node::new(&world).await;
    world.start();
    run_on(&world, "misses", "absent").await;
    run_on(&world, "loses", "lost").await;
    world.claim("going").await;
    run_on(&world, "used", "going").await;

    let status = world.until_one("misses", "waits", |status| phase(status) == "ClaimMissing").await;
    assert_eq!(ready(&status), Some(("False", "ClaimMissing")));
    let said = text(&status, "Succeeded");
    assert!(said.contains("absent") && said.ends_with("create it, and the run starts by itself"), "{said}");
    let status = world.until_one("loses", "waits", |status| phase(status) == "ClaimLost").await;
    assert_eq!(ready(&status), Some(("False", "ClaimLost")));
    assert!(text(&status, "Succeeded").contains("restore the volume"), "{}", text(&status, "Succeeded"));
    assert!(world.jobs_of("loses").await.is_empty() && world.jobs_of("misses").await.is_empty());

    // It stays while a pod uses it; the run must not be told that all is well.
    let pod = world.pod("used", StepName::Generate, 0).await;
    node.take(&pod).await;
    claims.delete("going", &DeleteParams::default()).await.expect("it is deleted");
    let going = claims.get("going").await.expect("it is protected while it is used");
    assert!(going.metadata.deletion_timestamp.is_some());
    let told = |status: &RunStatus| {
        text(status, "Succeeded").contains("PersistentVolumeClaim going is being deleted")
    };
    let status = world.until_one("used", "is told", told).await;
    assert_eq!(phase(&status), "Generating", "it still runs");
    world.finish("used", StepName::Generate, 0, 0, "").await;
    let status = world.until_one("used", "waits", |status| phase(status) == "ClaimTerminating").await;
    assert_eq!(ready(&status), Some(("False", "ClaimTerminating")));
    let said = text(&status, "Succeeded");
    assert!(said.contains("going is being deleted") && said.ends_with("and the run goes on"), "{said}");
    world.let_go(&pod).await;
    until("gone", async || claims.get_opt("going").await.expect("an answer").is_none().then_some(())).await;
    world.until_one("used", "misses it", |status| phase(status) == "ClaimMissing").await;

    let since = Instant::now();
    world.claim("absent").await;
    world.claim("going").await;
    claims.delete("lost", &DeleteParams::default()).await.expect("it is deleted");
    until("gone", async || claims.get_opt("lost").await.expect("an answer").is_none().then_some(())).await;
    world.claim("lost").await;
    for run in ["misses", "loses", "used"] {
        world
            .until_one(run, "goes on", |status| {
                ["Preparing", "Generating", "Training", "Succeeded"].contains(&phase(status))
            })
            .await;
    }
    assert!(since.elapsed() < SOON, "mends were noticed after {:?}", since.elapsed());
    node.remove().await;
    for run in ["misses", "loses", "used"] {
        let status = world.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{run}: {:?}", status.steps);
    }
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_claim_that_nothing_binds_is_named_with_the_mend() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => Act::Pend,
        _ => Act::Succeed,
    })
    .await;
    let director = Director::start(&world, |_| Act::Run).await;
    let node = Node::new(&world).await;
    // Volumes for the others, so that one claim is what is missing.
    for claim in ["models", "stic"] {
        bind(&world, claim).await;
    }
    world.start();
    world.one("one", &format!("  pod: {}\n", node.asked_for())).await;
    let status = world.until_one("one", "told", |status| phase(status) == "ClaimUnbound").await;
    let said = text(&status, "Succeeded");
    assert!(said.contains("PersistentVolumeClaim coco"), "{said}");
    assert!(said.contains("make a PersistentVolume that fits"), "{said}");
    assert_eq!(ready(&status), Some(("False", "ClaimUnbound")));
    bind(&world, "coco").await;
    // With a volume, the scheduler gives the pod to the node.
    let pod = until("scheduled", async || {
        let pods = world.pods_of("one").await;
        pods.into_iter().find(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
    })
    .await;
    let running = json!({"status": {"phase": "Running"}});
    let api = world.api::<Pod>();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&running)).await.expect("a pod");
    world.finish("one", StepName::Prepare, 0, 0, "").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    director.check().await;
    node.remove().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_class_that_binds_when_a_pod_comes_holds_nothing_up() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    let director = Director::start(&world, |_| Act::Run).await;
    let class: StorageClass = from(json!({"metadata": {"name": format!("late-{}", world.namespace)},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    classes.create(&PostParams::default(), &class).await.expect("a class");
    let late: PersistentVolumeClaim = from(json!({"metadata": {"name": "late"}, "spec": {
        "storageClassName": class.name_any(), "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}}}}));
    world.api().create(&PostParams::default(), &late).await.expect("a claim");
    world.start();
    run_on(&world, "one", "late").await;
    // To wait for the claim to be bound before there is a pod would be to wait for ever.
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    director.check().await;
}
