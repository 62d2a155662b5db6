//! How steps end, and what becomes of the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName;
use stic_crds::status::StepState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::director::{Director, Played};
use crate::kubelet::Act;
use crate::node::Node;
use crate::runs::{phase, text};
use crate::world::{World, until};

const STEPS: [StepName; 3] = [StepName::Prepare, StepName::Generate, StepName::Train];

/// The exit code, how often it comes before the step is done, and how the run ends: its phase and the step's starts.
const ENDINGS: [(i32, usize, &str, u32); 7] = [
    (64, 1, "ConfigInvalid", 1),
    (65, 1, "DataInvalid", 1),
    (74, 1, "Succeeded", 2),
    (74, 9, "StorageFailed", 2),
    (75, 2, "Succeeded", 3),
    (75, 9, "Interrupted", 3),
    (1, 9, "TrainerFailed", 2),
];

#[tokio::test]
#[ignore = "needs a cluster"]
async fn every_exit_code_of_every_step_ends_as_it_should() {
    let mut world = World::new(|_, _| Act::Run).await;
    let name = |step: StepName, (code, times, ..): (i32, usize, &str, u32)| format!("{step}-{code}-{times}");
    let director = Director::start(&world, move |played: &Played| {
        let ends = |ending: &(i32, usize, &str, u32)| played.run == name(played.step, *ending);
        match ENDINGS.iter().find(|ending| ends(ending)) {
            Some((code, times, ..)) if played.nth <= *times => {
                Act::Exit(*code, "list.txt:3: so it is; mend it")
            }
            _ => Act::Succeed,
        }
    })
    .await;
    for step in STEPS {
        for ending in ENDINGS {
            world.one(&name(step, ending), "  backoff: {limit: 1}\n").await;
        }
    }
    world.start();
    for step in STEPS {
        for ending in ENDINGS {
            let (run, (code, _, wanted, attempts)) = (name(step, ending), ending);
            let status = world.until_one(&run, "is over", |status| status.succeeded().is_some()).await;
            assert_eq!(phase(&status), wanted, "{run}: {status:#?}");
            let of_step = status.step(step).expect("it is recorded");
            // Kubernetes may be quicker with the next pod than we are with the end of its Job.
            let late = u32::from(wanted == "Interrupted" && of_step.attempts > attempts);
            assert_eq!(of_step.attempts, attempts + late, "{run}");
            if wanted != "Succeeded" {
                assert_eq!(of_step.state, StepState::Failed, "{run}");
                let said = text(&status, "Stalled");
                assert!(said.contains(&format!("step {step}")), "{run}: {said}");
                assert!(said.contains("mend it") || wanted == "Interrupted", "{run}: {said}");
            }
            let reached = STEPS.iter().position(|other| *other == step).expect("a step") + 1;
            let launched = if wanted == "Succeeded" { STEPS.len() } else { reached };
            let jobs = world.jobs_of(&run).await;
            assert_eq!(
                jobs.len(),
                launched,
                "{run}: Kubernetes restarts pods, no second Job multiplies that"
            );
            if code == 75 {
                let total = of_step.interruptions.map_or(0, |count| count.total);
                let wanted = if wanted == "Succeeded" { 2..=2 } else { 3..=4 };
                assert!(wanted.contains(&total), "{run}: {total}");
            }
        }
    }
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn progress_between_interruptions_starts_the_count_anew() {
    let mut world = World::new(|_, _| Act::Run).await;
    let current = Arc::new(AtomicU64::new(10));
    let server = serve(&world.address, current.clone()).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Train => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    let interruptions = |status: &stic_crds::RunStatus| {
        status.step(StepName::Train).and_then(|step| step.interruptions).unwrap_or_default()
    };
    // How far it is, and how many ends without progress there are after one more: never three.
    for (total, (at, without_progress)) in [(10, 1), (10, 2), (20, 1)].into_iter().enumerate() {
        current.store(at, Ordering::Relaxed);
        world
            .until_one("one", "so far", |status| {
                status.progress.as_ref().is_some_and(|progress| progress.current_step == at)
            })
            .await;
        world.finish("one", StepName::Train, 0, 75, "interrupted").await;
        let total = u32::try_from(total).expect("it is small") + 1;
        let status =
            world.until_one("one", "interrupted", |status| interruptions(status).total == total).await;
        assert_eq!(interruptions(&status).without_progress, without_progress);
        assert_eq!(phase(&status), "Training");
    }
    world.finish("one", StepName::Train, 0, 0, "").await;
    let status = world.until_one("one", "done", |status| status.succeeded().is_some()).await;
    assert_eq!(phase(&status), "Succeeded");
    assert_eq!(world.jobs().await.len(), 3);
    server.abort();
    director.check().await;
}

/// A trainer's progress at an address of its own, as far as `current`.
async fn serve(address: &str, current: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::TcpListener::bind((address, 8080)).await.expect("a loopback address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let body = json!({"step": "train", "activity": "training", "total": 750, "unit": "steps",
                "current": current.load(Ordering::Relaxed), "ratePerSecond": 0.5, "updated": 1_796_000_000})
            .to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_index_with_bad_data_ends_the_step_at_once_and_is_named() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "  preferences: {shards: 3}\n").await;
    let held = world.pod("one", StepName::Generate, 2).await;
    // Its kubelet gives it time to save.
    let node = Node::new(&world).await;
    node.take(&held).await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    world
        .finish("one", StepName::Generate, 1, 65, "a.png: is cut off; mend the image and raise spec.rerun")
        .await;
    // No GPU is held for what can never be whole: the pod of index 2 is told to save and end.
    until("told to end", async || {
        let pods = world.pods_of("one").await;
        pods.iter().find(|pod| pod.name_any() == held.name_any())?.metadata.deletion_timestamp.clone()
    })
    .await;
    assert_eq!(world.status_of("one").await.succeeded(), None, "no run is over while a pod of it writes");
    world.let_go(&held).await;
    let status = world.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DataInvalid");
    let said = text(&status, "Stalled");
    assert!(said.contains("index 1 of 3") && said.ends_with("mend the image and raise spec.rerun"), "{said}");
    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    for index in 0..3 {
        world.finish("one", StepName::Generate, index, 0, "").await;
    }
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(status.steps[1].attempts, 1, "of this rerun");
    node.remove().await;
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn an_index_beyond_its_budget_lets_the_others_end_and_is_named() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.step, played.index, played.nth) {
        (StepName::Generate, 1, _) => Act::Exit(1, "a bug; see the log"),
        (StepName::Generate, 2, 1) => Act::Exit(74, "disk full; make room"),
        (StepName::Generate, 0, _) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "  preferences: {shards: 3}\n  backoff: {limit: 1}\n").await;
    // Index 1 has failed for good, index 2 got over it, and index 0 is at work.
    until("index 1 failed and index 2 done", async || {
        let job = world.jobs_of("one").await.into_iter().find(|job| job.name_any().contains("generate"))?;
        let status = job.status?;
        (status.failed_indexes.as_deref() == Some("1") && status.completed_indexes.as_deref() == Some("2"))
            .then_some(())
    })
    .await;
    let status = world.until_one("one", "tried twice", |status| status.steps[1].attempts == 2).await;
    assert_eq!((phase(&status), status.succeeded()), ("Generating", None), "the others go on");
    world.finish("one", StepName::Generate, 0, 0, "").await;
    let status = world.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "TrainerFailed");
    assert!(text(&status, "Stalled").contains("index 1"), "{}", text(&status, "Stalled"));
    assert_eq!(
        world.pods_of("one").await.iter().filter(|pod| pod.name_any().contains("generate-")).count(),
        5
    );
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_deadline_ends_the_run_and_a_later_one_with_a_rerun_goes_on() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Train => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "  activeDeadlineSeconds: 8\n").await;
    let status = world.until_one("one", "over", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DeadlineExceeded");
    assert!(text(&status, "Stalled").contains("raise that and spec.rerun"), "{}", text(&status, "Stalled"));
    world.pods_end("one").await;
    world.edit("one", json!({"spec": {"activeDeadlineSeconds": 600, "rerun": 1}})).await;
    world.finish("one", StepName::Train, 0, 0, "").await;
    world.until_one("one", "done", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    director.check().await;
}
