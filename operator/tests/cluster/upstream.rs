//! StageTwoRuns and the StageOneRun they start from.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use stic_contract::{Digest, StepName};
use stic_crds::status::{INPUTS_READY, RunStatus};
use stic_crds::{StageOneRun, StageTwoRun};

use crate::director::Director;
use crate::kubelet::{Act, end};
use crate::runs::{phase, text};
use crate::world::World;

fn waits(status: &RunStatus) -> bool {
    phase(status) == "StageOneNotSucceeded"
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn stage_two_follows_its_stage_one_through_failure_and_deletion() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step, played.nth) {
        ("one", StepName::Train, 1) => Act::Exit(65, "so it is; mend it"),
        ("one", StepName::Train, 2) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    // Before, with and after: both at once, and a third when all is done.
    world.two("two", "one").await;
    let status = world.until_two("two", "waiting", waits).await;
    assert!(
        text(&status, INPUTS_READY).contains("StageOneRun one does not exist"),
        "{}",
        text(&status, INPUTS_READY)
    );
    world.one("one", "").await;
    world.two("twin", "one").await;
    for two in ["two", "twin"] {
        let failed =
            |status: &RunStatus| text(status, INPUTS_READY).contains("failed: step train failed: so it is");
        let status = world.until_two(two, "told", failed).await;
        assert_eq!(phase(&status), "StageOneNotSucceeded", "{two} waits, because it may be run again");
        assert!(
            text(&status, INPUTS_READY).contains("raise its spec.rerun"),
            "{}",
            text(&status, INPUTS_READY)
        );
        assert!(world.jobs_of(two).await.is_empty());
    }
    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    for two in ["two", "twin"] {
        let again =
            |status: &RunStatus| text(status, INPUTS_READY).contains("is not finished (phase Training)");
        world.until_two(two, "told", again).await;
    }
    world.finish("one", StepName::Train, 0, 0, "").await;
    for two in ["two", "twin"] {
        world.until_two(two, "is done", |status| phase(status) == "Succeeded").await;
        assert_eq!(world.jobs_of(two).await.len(), 3);
    }
    world.two("late", "one").await;
    world.until_two("late", "is done", |status| phase(status) == "Succeeded").await;
    world.delete_one("one").await;
    // Held, or it would start where the deletion is not seen yet.
    world.two_with("too-late", "one", "  suspend: true\n").await;
    let gone = |status: &RunStatus| text(status, INPUTS_READY).contains("does not exist");
    world.until_two("too-late", "told", gone).await;
    let api = world.api::<StageTwoRun>();
    let done = api.get("two").await.expect("it exists").status.expect("a status");
    assert_eq!(phase(&done), "Succeeded", "what is done needs nobody any more");
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_started_stage_two_keeps_what_it_started_with() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step) {
        ("rerun-two" | "deleted-two", StepName::Prepare | StepName::Describe) => Act::Run,
        ("rerun", StepName::Train) if played.nth == 2 => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    for one in ["rerun", "deleted"] {
        world.one(one, "").await;
        world.two(&format!("{one}-two"), one).await;
        world.pod(&format!("{one}-two"), StepName::Prepare, 0).await;
    }
    let twos = world.api::<StageTwoRun>();
    let before = twos.get("rerun-two").await.expect("it exists").status.and_then(|status| status.inputs);
    assert!(before.as_ref().is_some_and(|inputs| inputs.adapter.is_some()), "{before:?}");
    world.edit("rerun", json!({"spec": {"rerun": 1}})).await;
    world.delete_one("deleted").await;
    // Stage 1 makes another adapter now.
    let pod = world.pod("rerun", StepName::Train, 0).await;
    let mut result = crate::common::result(StepName::Train);
    let adapter = result.artifacts.last_mut().expect("an adapter");
    adapter.location.path = "coco-6k/adapter-4567".into();
    adapter.digest = Digest::of(b"another");
    end(&world.api(), &pod, 0, &result.to_termination_message()).await;
    world
        .until_one("rerun", "is done again", |status| status.rerun == 1 && phase(status) == "Succeeded")
        .await;
    for one in ["rerun", "deleted"] {
        let two = format!("{one}-two");
        world.finish(&two, StepName::Prepare, 0, 0, "").await;
        world.finish(&two, StepName::Describe, 0, 0, "").await;
        let status = world.until_two(&two, "is done", |status| phase(status) == "Succeeded").await;
        let adapter = |inputs: Option<stic_crds::status::Inputs>| inputs.and_then(|inputs| inputs.adapter);
        assert_eq!(adapter(status.inputs), adapter(before.clone()), "{two}");
        assert_eq!(configs(&world, &two).await, 3, "{two}: every step's run config names the same adapter");
    }
    director.check().await;
}

/// How many run configs of a run name the adapter that stage 1 made first.
async fn configs(world: &World, run: &str) -> usize {
    let api: Api<ConfigMap> = world.api();
    let of_run = kube::api::ListParams::default().labels(&format!("stic.dev/run={run}"));
    let maps = api.list(&of_run).await.expect("ConfigMaps").items;
    let adapter = crate::common::artifact(stic_contract::ArtifactKind::Adapter, StepName::Train);
    let texts = maps.iter().flat_map(|map| map.data.iter().flat_map(|data| data.values()));
    texts.filter(|text| text.contains(&adapter.location.path)).count()
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn another_model_or_a_changed_adapter_fails_stage_two_with_the_mend() {
    let mut world = World::new(|_, _| Act::Run).await;
    let changed =
        "adapter-0123: has digest sha256:2, but the run that made it recorded sha256:1; run that one again";
    let director = Director::start(&world, move |played| match (played.run.as_str(), played.step) {
        ("model", StepName::Prepare) => Act::Run,
        ("adapter", StepName::Prepare) => Act::Exit(65, changed),
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    world.two("model", "one").await;
    world.two("adapter", "one").await;
    let pod = world.pod("model", StepName::Prepare, 0).await;
    let mut result = crate::common::result(StepName::Prepare);
    result.inputs.as_mut().expect("digests").model = Digest::of(b"another model");
    end(&world.api(), &pod, 0, &result.to_termination_message()).await;
    let over = |status: &RunStatus| status.succeeded() == Some(false);
    let status = world.until_two("model", "failed", over).await;
    assert_eq!(phase(&status), "ModelChanged");
    assert!(text(&status, "Stalled").ends_with("restore that model, or run stage 1 on this one"));
    let status = world.until_two("adapter", "failed", over).await;
    assert_eq!(phase(&status), "DataInvalid");
    assert!(text(&status, INPUTS_READY).ends_with(changed), "{}", text(&status, INPUTS_READY));
    for two in ["model", "adapter"] {
        assert_eq!(world.jobs_of(two).await.len(), 1, "{two} holds no GPU");
    }
    let ones = world.api::<StageOneRun>();
    ones.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    director.check().await;
}
