//! Pods that cannot be made, cannot start, or are on a node that is gone.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::status::RECONCILING;

use crate::director::Director;
use crate::kubelet::Act;
use crate::node::{Node, bind, from};
use crate::runs::{phase, text};
use crate::world::{World, until};

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_quota_that_is_used_up_is_named_and_raising_it_lets_the_run_go_on() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let quotas = world.api::<ResourceQuota>();
    let quota =
        json!({"metadata": {"name": "small"}, "spec": {"hard": {"count/jobs.batch": "0", "pods": "0"}}});
    quotas.create(&PostParams::default(), &from(quota)).await.expect("a quota");
    let raise = async |hard: serde_json::Value| {
        let patch = json!({"spec": {"hard": hard}});
        quotas.patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a quota");
    };
    until("counted", async || quotas.get("small").await.expect("a quota").status?.used.map(drop)).await;
    world.start();
    world.one("one", "  preferences: {shards: 2}\n").await;
    let status = world.until_one("one", "told", |status| phase(status) == "QuotaExceeded").await;
    let said = text(&status, "Succeeded");
    assert!(
        said.contains("count/jobs.batch") && said.ends_with("free some of the quota or raise it"),
        "{said}"
    );
    assert_eq!(
        status.condition(RECONCILING).map(|it| it.status.as_str()),
        Some("True"),
        "nothing exists yet"
    );
    raise(json!({"count/jobs.batch": "10"})).await;
    let no_pod =
        |status: &stic_crds::RunStatus| text(status, "Succeeded").contains("the pod cannot be created");
    let status = world.until_one("one", "told of its pods", no_pod).await;
    assert_eq!(phase(&status), "QuotaExceeded");
    assert!(text(&status, "Succeeded").contains("pods=0"), "{}", text(&status, "Succeeded"));
    // One pod may run now, and the other index is told apart from it.
    raise(json!({"pods": "1"})).await;
    let status = world
        .until_one("one", "told of the other index", |status| {
            phase(status) == "Generating" && text(status, "Succeeded").contains("exceeded quota")
        })
        .await;
    assert!(text(&status, "Succeeded").contains("1 of its 2 pods"), "{}", text(&status, "Succeeded"));
    raise(json!({"pods": "10"})).await;
    for index in 0..2 {
        world.finish("one", StepName::Generate, index, 0, "").await;
    }
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    assert_eq!(world.jobs().await.len(), 3);
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_pod_that_is_refused_is_mended_in_the_spec_of_the_same_run() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |_| Act::Succeed).await;
    let limits = json!({"metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "max": {"memory": "1Gi"}}]}});
    world.api::<LimitRange>().create(&PostParams::default(), &from(limits)).await.expect("limits");
    world.start();
    world.one("one", "  pod: {resources: {limits: {memory: 4Gi}}}\n").await;
    let status = world.until_one("one", "told", |status| phase(status) == "PodsNotCreated").await;
    let said = text(&status, "Succeeded");
    assert!(said.contains("maximum memory usage per Container is 1Gi"), "{said}");
    assert!(said.ends_with("correct spec.pod and delete its Job, which is then made anew"), "{said}");
    world.edit("one", json!({"spec": {"pod": {"resources": {"limits": {"memory": "512Mi"}}}}})).await;
    made_anew(&world).await;
    let pods = world.pods_of("one").await;
    let limit = |pod: &Pod| {
        let container = pod.spec.as_ref()?.containers.first()?;
        container.resources.as_ref()?.limits.as_ref()?.get("memory").map(|limit| limit.0.clone())
    };
    assert!(pods.iter().all(|pod| limit(pod).as_deref() == Some("512Mi")), "{pods:#?}");
    director.check().await;
}

/// Does what a condition tells people to do, and waits for the end.
async fn made_anew(world: &World) {
    let first = world.prepare_job("one").await;
    world.api::<Job>().delete(&first, &DeleteParams::background()).await.expect("it is deleted");
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_ne!(status.steps[0].job_name.as_ref(), Some(&first), "the mend applies from the next attempt on");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_image_that_cannot_be_pulled_and_a_pod_that_fits_nowhere_say_so_until_they_are_mended() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Prepare, 1 | 2) => Act::Pend,
        _ => Act::Run,
    })
    .await;
    let director = Director::start(&world, |_| Act::Succeed).await;
    let node = Node::new(&world).await;
    for claim in ["models", "coco", "stic"] {
        bind(&world, claim).await;
    }
    world.start();
    let pods = "{nodeSelector: {gpu: h100}, tolerations: [{operator: Exists}], image: registry/typo}";
    world.one("one", &format!("  pod: {pods}\n")).await;
    let status = world.until_one("one", "told", |status| phase(status) == "Unschedulable").await;
    let said = text(&status, "Succeeded");
    assert!(said.contains("no node takes the pod") && said.contains("node affinity/selector"), "{said}");
    assert!(said.ends_with("which is then made anew"), "{said}");
    world.edit("one", json!({"spec": {"pod": {"nodeSelector": null, "tolerations": null}}})).await;
    let first = world.prepare_job("one").await;
    world.api::<Job>().delete(&first, &DeleteParams::background()).await.expect("it is deleted");
    let pod = until("a second pod", async || {
        let pods = world.pods_of("one").await;
        pods.into_iter()
            .find(|pod| pod.metadata.deletion_timestamp.is_none() && !pod.name_any().starts_with(&first))
    })
    .await;
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()), None);
    let waits = json!({"status": {"phase": "Pending", "conditions": null, "containerStatuses": [{"name": "trainer",
        "image": "registry/typo", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}}}]}});
    let pods = world.api::<Pod>();
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&waits)).await.expect("a pod");
    let status = world.until_one("one", "told", |status| phase(status) == "ImagePullFailed").await;
    let said = text(&status, "Succeeded");
    assert!(said.contains("registry/typo") && said.contains("not found"), "{said}");
    assert!(said.ends_with("correct spec.pod and delete its Job, which is then made anew"), "{said}");
    world.edit("one", json!({"spec": {"pod": {"image": "registry/right"}}})).await;
    made_anew(&world).await;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    assert!(world.pods_of("one").await.iter().all(|pod| image(pod).as_deref() == Some("registry/right")));
    node.remove().await;
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_lost_node_is_named_with_its_taint_and_with_the_taint_the_run_goes_on() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.step, played.nth) {
        (StepName::Train, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    let node = Node::new(&world).await;
    world.one("one", "").await;
    let pod = world.pod("one", StepName::Train, 0).await;
    node.take(&pod).await;
    node.die();
    // Its kubelet reports no more; the node controller says so after its grace period.
    let status = world.until_one("one", "told", |status| phase(status) == "NodeLost").await;
    let reconciling = status.condition(RECONCILING).expect("a condition");
    assert_eq!((reconciling.status.as_str(), reconciling.reason.as_str()), ("True", "NodeLost"));
    let taint =
        format!("kubectl taint nodes {} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", node.name);
    assert!(
        reconciling.message.contains(&node.name) && reconciling.message.ends_with(&taint),
        "{}",
        reconciling.message
    );
    assert_eq!(status.succeeded(), None);
    assert_eq!(world.pods_of("one").await.len(), 3, "it might still write: it is not replaced");
    node.taint("node.kubernetes.io/out-of-service", "nodeshutdown", "NoExecute").await;
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!((world.jobs().await.len(), status.steps.len()), (3, 3));
    let pods = world.api::<Pod>();
    assert!(pods.get_opt(&pod.name_any()).await.expect("an answer").is_none(), "it was removed by force");
    node.remove().await;
    director.check().await;
}
