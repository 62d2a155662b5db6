//! Runs that are over, run again, or have the longest name there may be.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::director::Director;
use crate::kubelet::Act;
use crate::node::Node;
use crate::runs::phase;
use crate::world::{World, until};

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_that_is_over_stays_so_whatever_becomes_of_its_children_and_of_the_operator() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step, played.nth) {
        ("failed", StepName::Train, 1) => Act::Exit(65, "so it is; mend it"),
        _ => Act::Succeed,
    })
    .await;
    world.start();
    let runs = ["done", "failed"];
    for run in runs {
        world.one(run, "").await;
    }
    for run in runs {
        world.until_one(run, "is over", |status| status.succeeded().is_some()).await;
    }
    world.kill();
    let jobs = world.api::<Job>();
    for job in world.jobs().await {
        jobs.delete(&job.name_any(), &DeleteParams::background()).await.expect("it is deleted");
    }
    world.edit("done", json!({"spec": {"backoff": {"limit": 9}, "suspend": true}})).await;
    world.edit("failed", json!({"spec": {"pod": {"nodeSelector": {"disk": "large"}}}})).await;
    world.start();
    for run in runs {
        world.until_one(run, "is seen", |status| status.observed_generation == 2).await;
    }
    world.edit("done", json!({"spec": {"suspend": false}})).await;
    world.until_one("done", "is seen", |status| status.observed_generation == 3).await;
    assert!(world.jobs().await.is_empty(), "what is over never starts again");
    for run in runs {
        world.edit(run, json!({"spec": {"rerun": 1}})).await;
        let again = |status: &stic_crds::RunStatus| status.rerun == 1 && phase(status) == "Succeeded";
        let status = world.until_one(run, "is done again", again).await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
        assert_eq!(world.jobs_of(run).await.len(), 3);
    }
    director.check().await;
    for run in runs {
        // As a GitOps tool does that goes back to an older commit.
        world.edit(run, json!({"spec": {"rerun": 0}})).await;
    }
    for run in runs {
        let generation = if run == "done" { 5 } else { 4 };
        let status = world.until_one(run, "is seen", |status| status.observed_generation == generation).await;
        assert_eq!((status.rerun, phase(&status)), (1, "Succeeded"), "a lower rerun is none");
        assert_eq!(world.jobs_of(run).await.len(), 3);
    }
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_rerun_takes_over_from_one_that_still_runs() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.step, played.nth) {
        (StepName::Train, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    let first = world.pod("one", StepName::Train, 0).await;
    let node = Node::new(&world).await;
    node.take(&first).await;
    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    let old = first.owner_references()[0].name.clone();
    until("the Job of the first gone", async || {
        world.api::<Job>().get_opt(&old).await.expect("an answer").is_none().then_some(())
    })
    .await;
    let waits = |status: &stic_crds::RunStatus| {
        status.rerun == 1 && crate::runs::text(status, "Succeeded").contains("step train starts again when")
    };
    world.until_one("one", "waiting", waits).await;
    let trains =
        world.pods_of("one").await.iter().filter(|pod| crate::kubelet::step(pod) == StepName::Train).count();
    assert_eq!(trains, 1, "two pods of one step would write at once");
    world.let_go(&first).await;
    let status =
        world.until_one("one", "done", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    node.remove().await;
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_longest_name_works_with_shards_and_a_longer_one_is_refused() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |_| Act::Succeed).await;
    world.start();
    let (one, two) = ("a".repeat(40), "b".repeat(40));
    world.one_with_claim(&one, "  preferences: {shards: 12}\n").await;
    world.two(&two, &one).await;
    let ones = world.api::<StageOneRun>();
    let api: Api<StageTwoRun> = world.api();
    let longer = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": "a".repeat(41)}, "spec": ones.get(&one).await.expect("it exists").spec});
    let refused = ones.patch(&"a".repeat(41), &PatchParams::apply("test"), &Patch::Apply(&longer)).await;
    let said = refused.expect_err("it is too long").to_string();
    assert!(
        said.contains("a run's name is at most 40 lower-case letters")
            && said.contains("choose another name"),
        "{said}"
    );
    world.until_one(&one, "is done", |status| phase(status) == "Succeeded").await;
    world.until_two(&two, "is done", |status| phase(status) == "Succeeded").await;
    assert!(api.get_opt(&two).await.expect("an answer").is_some());
    let pods = world.pods_of(&one).await;
    assert_eq!(pods.len(), 14);
    for pod in pods {
        let name = pod.name_any();
        let host = pod.spec.and_then(|spec| spec.hostname).unwrap_or_default();
        assert!(name.len() <= 63 && host.len() <= 63, "{name} {host}");
    }
    director.check().await;
}
