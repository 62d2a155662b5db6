//! Whole lives of runs.

use std::time::Duration;

use k8s_openapi::api::batch;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::StageOneRun;
use stic_crds::status::{INPUTS_READY, RECONCILING, RunStatus, STALLED, SUSPENDED, StepState};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kubelet::{Act, end, made, step};
use crate::node::Node;
use crate::runs::phase;
use crate::world::{World, until};

fn is(status: &RunStatus, condition: &str) -> Option<(String, String)> {
    status.condition(condition).map(|condition| (condition.status.clone(), condition.reason.clone()))
}

fn of(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn stage_two_waits_for_stage_one_and_both_succeed() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    world.start();
    world.two("two", "one").await;
    let waiting = world.until_two("two", "waiting", |status| phase(status) == "StageOneNotSucceeded").await;
    assert_eq!(is(&waiting, INPUTS_READY), of("False", "StageOneNotSucceeded"));
    assert_eq!(is(&waiting, RECONCILING), of("False", "StageOneNotSucceeded"), "kstatus: Current");
    world.one("one", "  preferences: {shards: 2}\n").await;
    let one = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let two = world.until_two("two", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(one.steps.iter().map(|step| step.state).collect::<Vec<_>>(), [StepState::Succeeded; 3]);
    assert_eq!(one.steps[1].items.map(|items| items.total), Some(12_000), "both shards count");
    assert_eq!(
        one.resolved.and_then(|resolved| resolved.trainer_image).as_deref(),
        Some("registry/trainer@sha256:00")
    );
    let adapter = two.inputs.and_then(|inputs| inputs.adapter).expect("it is pinned");
    let made = one.artifacts.iter().find(|artifact| artifact.step == StepName::Train).expect("an adapter");
    assert_eq!(adapter.digest.as_ref(), Some(&made.digest));
    assert_eq!(world.jobs().await.len(), 6);
    let events = world.api::<Event>().list(&ListParams::default()).await.expect("events");
    let reasons: Vec<_> = events
        .iter()
        .filter(|event| event.involved_object.name.as_deref() == Some("one"))
        .filter_map(|event| event.reason.as_deref())
        .collect();
    for reason in ["Preparing", "Generating", "Training", "Succeeded"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn invalid_data_fails_at_once_and_says_what_the_trainer_said() {
    let mut world = World::new(|_, _| Act::Exit(65, "list.txt:3: no such image; mend the line")).await;
    world.start();
    world.one("one", "").await;
    let status = world.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DataInvalid");
    assert_eq!(is(&status, STALLED), of("True", "DataInvalid"));
    let message = &status.condition("Succeeded").expect("it is there").message;
    assert_eq!(message, "step prepare failed: list.txt:3: no such image; mend the line");
    assert_eq!(status.steps[0].attempts, 1, "it is not tried again");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.jobs().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn what_may_pass_is_tried_again_within_the_budget() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => Act::Exit(74, "disk full; make room"),
        (StepName::Train, _) => Act::Exit(1, "a bug"),
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "  backoff: {limit: 1}\n").await;
    let status = world.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "TrainerFailed");
    assert_eq!(status.steps.iter().map(|step| step.attempts).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(world.jobs().await.len(), 3, "Kubernetes restarts pods; no second Job multiplies that");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn three_interruptions_without_progress_fail_the_step() {
    let mut world = World::new(|step, _| match step {
        StepName::Prepare => Act::Exit(75, "interrupted"),
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    let status = world.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "Interrupted");
    let api = world.api::<batch::v1::Job>();
    let job = world.jobs().await.remove(0).name_any();
    for _ in 0..100 {
        let job = api.get(&job).await.expect("it stays");
        if job.spec.and_then(|spec| spec.suspend) == Some(true) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the Job still makes pods");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_held_run_ends_its_pods_and_goes_on_from_there() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Generate, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    world.until_one("one", "generating", |status| phase(status) == "Generating").await;
    world.pod("one", StepName::Generate, 0).await;
    let held = world.hold("one").await;
    assert_eq!(is(&held, SUSPENDED), of("True", "Suspended"));
    assert_eq!(held.steps[1].state, StepState::Suspended);
    world.edit("one", json!({"spec": {"suspend": false}})).await;
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(status.observed_generation, 3);
    assert_eq!(world.jobs().await.len(), 3);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn terminal_means_terminal_until_a_rerun() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    world.start();
    world.one("one", "").await;
    let first = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    for job in world.jobs().await {
        let api = world.api::<batch::v1::Job>();
        api.delete(&job.name_any(), &DeleteParams::background()).await.expect("it is deleted");
    }
    world.edit("one", json!({"spec": {"backoff": {"limit": 7}}})).await;
    let touched = world.until_one("one", "seen", |status| status.observed_generation == 2).await;
    assert_eq!(touched.completion_time, first.completion_time);
    assert!(world.jobs().await.is_empty(), "a finished run never starts again");
    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    let second = world
        .until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded")
        .await;
    assert_eq!(world.jobs().await.len(), 3);
    assert!(second.steps[0].job_uid != first.steps[0].job_uid);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_missing_claim_is_named_and_its_coming_starts_the_run() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    let claims = world.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    claims.delete("coco", &DeleteParams::default()).await.expect("it is deleted");
    world.start();
    world.one("one", "").await;
    let status = world.until_one("one", "waiting", |status| phase(status) == "ClaimMissing").await;
    assert_eq!(is(&status, INPUTS_READY), of("False", "ClaimMissing"));
    assert!(
        status.condition("Succeeded").is_some_and(|it| it.message.contains("PersistentVolumeClaim coco"))
    );
    assert!(world.jobs().await.is_empty());
    world.claim("coco").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_deleted_job_is_made_again_and_a_deleted_pod_is_replaced() {
    let mut world = World::new(|step, count| match (step, count) {
        (StepName::Generate | StepName::Train, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    let status = world.until_one("one", "generating", |status| phase(status) == "Generating").await;
    let job = status.steps[1].job_name.clone().expect("it is recorded");
    // One that the kubelet never saw would not count.
    world.pod("one", StepName::Generate, 0).await;
    let api = world.api::<batch::v1::Job>();
    api.delete(&job, &DeleteParams::background()).await.expect("it is deleted");
    let status = world.until_one("one", "training", |status| phase(status) == "Training").await;
    assert_ne!(status.steps[1].job_name.as_ref(), Some(&job));
    let pods = world.api::<Pod>();
    let pod = world.pod("one", StepName::Train, 0).await.name_any();
    pods.delete(&pod, &DeleteParams::default()).await.expect("it is deleted");
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

/// A Job counts a pod that ends well although it was deleted, and makes no other for it.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_result_of_a_pod_that_was_deleted_is_not_lost() {
    let mut world = World::new(|step, _| match step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "  preferences: {shards: 2}\n").await;
    // Its kubelet gives a pod its time.
    let node = Node::new(&world).await;
    let pods = world.api::<Pod>();
    // One is deleted when it has ended, the other while it ends.
    let first = world.pod("one", StepName::Generate, 0).await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    until("counted", async || {
        let jobs = world.jobs_of("one").await;
        let counts =
            |job: &batch::v1::Job| job.status.as_ref().and_then(|status| status.succeeded) == Some(1);
        jobs.iter().any(|job| job.name_any().contains("generate") && counts(job)).then_some(())
    })
    .await;
    world.let_go(&first).await;
    let second = world.pod("one", StepName::Generate, 1).await;
    node.take(&second).await;
    pods.delete(&second.name_any(), &DeleteParams::default()).await.expect("it is deleted");
    end(&pods, &second, 0, &made(&second)).await;
    world.let_go(&second).await;
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let left = world.pods_of("one").await;
    assert!(!left.iter().any(|pod| [&first, &second].iter().any(|gone| gone.uid() == pod.uid())), "{left:?}");
    assert_eq!(world.jobs_of("one").await.len(), 3, "no step was done twice");
    let items = status.steps[1].items.as_ref().map(|items| items.total);
    assert_eq!(items, Some(12_000), "of both");
    node.remove().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_goes_with_its_children_and_its_own_claim_stays_unless_asked() {
    let mut world = World::new(|_, _| Act::Run).await;
    world.start();
    let claim = "  retention: {whenDeleted: Delete}\n";
    world.one("one", claim).await;
    world
        .until_one("one", "preparing", |status| {
            status.steps.first().is_some_and(|step| step.job_name.is_some())
        })
        .await;
    let runs = world.api::<StageOneRun>();
    runs.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    for _ in 0..600 {
        let maps = world.api::<ConfigMap>().list(&ListParams::default().labels("stic.dev/run=one")).await;
        if world.jobs().await.is_empty() && maps.expect("ConfigMaps").items.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("children stay");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn children_go_when_asked_and_the_run_stays_as_the_record() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    world.start();
    world.one("one", "  retention: {children: Delete}\n").await;
    let done = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    for _ in 0..300 {
        if world.jobs().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.jobs().await.is_empty(), "they went and did not come back");
    assert_eq!(world.status_of("one").await, done);
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_claim_of_its_own_is_made_once_and_goes_with_the_run_only_while_asked() {
    let mut world = World::new(|_, _| Act::Succeed).await;
    world.start();
    world.one_with_claim("one", "  retention: {whenDeleted: Delete}\n").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let claims = world.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    let owners = || async { claims.get("one-output").await.expect("it was made").owner_references().len() };
    assert_eq!(owners().await, 1);
    world.edit("one", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    world.until_one("one", "seen", |status| status.observed_generation == 2).await;
    assert_eq!(owners().await, 0, "also when the run is over");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn the_progress_of_a_pod_moves_the_status_and_silence_leaves_it() {
    let mut world = World::new(|step, _| match step {
        StepName::Train => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let served = serve(&world.address).await;
    world.start();
    world.one("one", "").await;
    let status = world.until_one("one", "moving", |status| status.progress.is_some()).await;
    let display = status.display.expect("it is shown");
    assert_eq!((display.progress.as_deref(), display.loss.as_deref()), (Some("41%"), Some("0.610")));
    served.abort();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let silent = world.status_of("one").await;
    assert_eq!(phase(&silent), "Training", "silence fails nothing");
    assert_eq!(silent.progress, status.progress, "and leaves what was known");
    let pods = world.api::<Pod>();
    let all = pods.list(&ListParams::default()).await.expect("pods").items;
    let pod = all.into_iter().find(|pod| step(pod) == StepName::Train).expect("it runs");
    end(&pods, &pod, 0, &made(&pod)).await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

/// A trainer's progress at an address of its own.
async fn serve(address: &str) -> tokio::task::JoinHandle<()> {
    const BODY: &str = r#"{"step":"train","activity":"training","current":310,"total":750,"unit":"steps","ratePerSecond":0.5,"metrics":{"loss":0.61},"updated":1796000000}"#;
    let listener = tokio::net::TcpListener::bind((address, 8080)).await.expect("a loopback address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
}
