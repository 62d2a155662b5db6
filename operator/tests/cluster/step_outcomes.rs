//! How steps end, and what that means for the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::status::StepState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kubelet::{PodAction, is_running};
use crate::node::Node;
use crate::runs::{is_any, phase, text};
use crate::scripted_pods::{ScriptedPod, ScriptedPods};
use crate::test_env::{TestEnv, until};

const STEPS: [StepName; 3] = [StepName::Prepare, StepName::Generate, StepName::Train];

/// The exit code, how often it occurs before the step succeeds, and the end of the run: its phase and the step's attempts.
const OUTCOMES: [(i32, usize, &str, u32); 10] = [
    (64, 1, "ConfigInvalid", 1),
    (65, 1, "DataInvalid", 1),
    (71, 1, "OutOfMemory", 1),
    (74, 1, "Succeeded", 2),
    (74, 9, "StorageFailed", 2),
    (75, 2, "Succeeded", 3),
    // No progress can be read, so that any of them may have made some.
    (75, 4, "Succeeded", 5),
    // A GPU that fails does not use up the retries either, and made no progress where none could be read.
    (76, 2, "Succeeded", 3),
    (76, 9, "DeviceFailed", 3),
    (1, 9, "TrainerFailed", 2),
];

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn every_exit_code_of_every_step_has_the_right_outcome() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let name = |step: StepName, (code, times, ..): (i32, usize, &str, u32)| format!("{step}-{code}-{times}");
    let pods_script = ScriptedPods::start(&env, move |scripted: &ScriptedPod| {
        let ends = |ending: &(i32, usize, &str, u32)| scripted.run == name(scripted.step, *ending);
        match OUTCOMES.iter().find(|ending| ends(ending)) {
            Some((code, times, ..)) if scripted.nth <= *times => {
                PodAction::Exit(*code, "list.txt:3: no such image; fix the line")
            }
            _ => PodAction::Succeed,
        }
    })
    .await;
    for step in STEPS {
        for ending in OUTCOMES {
            env.one(&name(step, ending), "  backoff: {limit: 1}\n").await;
        }
    }
    env.start();
    for step in STEPS {
        for ending in OUTCOMES {
            let (run, (code, times, wanted, attempts)) = (name(step, ending), ending);
            let status = env.until_one(&run, "has ended", |status| status.succeeded().is_some()).await;
            assert_eq!(phase(&status), wanted, "{run}: {status:#?}");
            let of_step = status.step(step).expect("it is recorded");
            assert_eq!(of_step.attempts, attempts, "{run}");
            if wanted != "Succeeded" {
                assert_eq!(of_step.state, StepState::Failed, "{run}");
                let message = text(&status, ConditionType::Stalled);
                assert!(message.contains(&format!("step {step}")), "{run}: {message}");
                assert!(message.contains("fix the line"), "{run}: {message}");
            }
            let reached = STEPS.iter().position(|other| *other == step).expect("a step") + 1;
            let launched = if wanted == "Succeeded" { STEPS.len() } else { reached };
            let jobs = env.jobs_of(&run).await;
            assert_eq!(
                jobs.len(),
                launched,
                "{run}: Kubernetes restarts pods, no second Job multiplies that"
            );
            if [75, 76].contains(&code) && wanted == "Succeeded" {
                let total = of_step.interruptions.map_or(0, |count| count.total);
                assert_eq!(usize::try_from(total), Ok(times), "{run}");
            }
        }
    }
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn interruptions_count_until_there_is_progress() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let server = ProgressServer::start(&env.address, 10).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Train => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    let interruptions = |status: &stic_crds::RunStatus| {
        status.step(StepName::Train).and_then(|step| step.interruptions).unwrap_or_default()
    };
    let interrupt = async |at: u64| {
        server.current.store(at, Ordering::Relaxed);
        env.until_one("one", "so far", |status| {
            status.progress.as_ref().is_some_and(|progress| progress.current_step == at)
        })
        .await;
        let pod = env.pod("one", StepName::Train, 0).await;
        server.wait_for_reads().await;
        env.finish("one", StepName::Train, 0, 75, "interrupted").await;
        until("another pod, or none", async || {
            let phase = env.status_of("one").await;
            let pods = env.pods_of("one").await;
            let next = pods.iter().any(|other| is_running(other) && other.uid() != pod.uid());
            (next || phase.succeeded().is_some()).then_some(())
        })
        .await;
    };
    // The progress, and the interruptions without progress after one more.
    for (total, (at, without_progress)) in [(10, 1), (10, 2), (20, 1), (20, 2)].into_iter().enumerate() {
        interrupt(at).await;
        let total = u32::try_from(total).expect("it is small") + 1;
        // Until the next pod runs, the status may say that nothing can schedule it.
        let goes_on = |status: &stic_crds::RunStatus| {
            interruptions(status).total == total && phase(status) == "Training"
        };
        let status = env.until_one("one", "interrupted", goes_on).await;
        assert_eq!(interruptions(&status).without_progress, without_progress);
    }
    interrupt(20).await;
    let status = env.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "Interrupted");
    let job = status.steps[2].job_name.clone().expect("it had one");
    env.until_true("the Job is suspended", async || {
        let job = env.api::<Job>().get(&job).await.expect("it is kept");
        job.spec.and_then(|spec| spec.suspend) == Some(true)
    })
    .await;
    assert_eq!(env.jobs().await.len(), 3);
    pods_script.check().await;
}

/// Serves the progress of a trainer.
struct ProgressServer {
    current: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    serves: tokio::task::JoinHandle<()>,
}

impl ProgressServer {
    async fn start(address: &str, current: u64) -> Self {
        let listener = tokio::net::TcpListener::bind((address, 8080)).await.expect("a loopback address");
        let (current, reads) = (Arc::new(AtomicU64::new(current)), Arc::<AtomicU64>::default());
        let (at, count) = (current.clone(), reads.clone());
        let serves = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let since = Instant::now();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let body = json!({"step": "train", "activity": "training", "total": 750, "unit": "steps",
                    "current": at.load(Ordering::Relaxed), "ratePerSecond": 0.5, "updated": 1_796_000_000})
                .to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                // The operator closes the connection when it has the answer, and gives up after two seconds.
                let _ = stream.read(&mut request).await;
                if since.elapsed() < Duration::from_secs(1) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { current, reads, serves }
    }

    /// Waits until the operator has read the progress: when it asks again, it has the response to its first request.
    async fn wait_for_reads(&self) {
        let before = self.reads.load(Ordering::Relaxed);
        until("read twice", async || (self.reads.load(Ordering::Relaxed) >= before + 2).then_some(())).await;
    }
}

impl Drop for ProgressServer {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_index_with_invalid_data_fails_the_step_at_once_and_is_named() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "  preferences: {shards: 3}\n").await;
    let running = env.pod("one", StepName::Generate, 2).await;
    // The kubelet gives it time to save its state.
    let node = Node::new(&env).await;
    node.bind_pod(&running).await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    env.finish("one", StepName::Generate, 1, 65, "a.png: is cut off; fix the image and raise spec.rerun")
        .await;
    // The pod of index 2 saves its state and exits, so that no GPU is allocated for a step that cannot succeed.
    until("being deleted", async || {
        let pods = env.pods_of("one").await;
        pods.iter().find(|pod| pod.name_any() == running.name_any())?.metadata.deletion_timestamp.clone()
    })
    .await;
    assert_eq!(
        env.status_of("one").await.succeeded(),
        None,
        "a run does not end while one of its pods can write"
    );
    env.confirm_deletion(&running).await;
    let status = env.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DataInvalid");
    let message = text(&status, ConditionType::Stalled);
    assert!(
        message.contains("index 1 of 3") && message.ends_with("fix the image and raise spec.rerun"),
        "{message}"
    );
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    for index in 0..3 {
        env.finish("one", StepName::Generate, index, 0, "").await;
    }
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(status.steps[1].attempts, 1, "of this rerun");
    node.remove().await;
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_index_without_retries_left_lets_the_others_finish_and_is_named() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.step, scripted.index, scripted.nth) {
            (StepName::Generate, 1, _) => PodAction::Exit(1, "a bug; see the log"),
            (StepName::Generate, 2, 1) => PodAction::Exit(74, "disk full; make room"),
            (StepName::Generate, 0, _) => PodAction::Run,
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    env.one("one", "  preferences: {shards: 3}\n  backoff: {limit: 1}\n").await;
    // Index 1 has failed for good, index 2 has recovered, and index 0 is running.
    until("index 1 failed and index 2 done", async || {
        let job = env.jobs_of("one").await.into_iter().find(|job| job.name_any().contains("generate"))?;
        let status = job.status?;
        (status.failed_indexes.as_deref() == Some("1") && status.completed_indexes.as_deref() == Some("2"))
            .then_some(())
    })
    .await;
    let status = env.until_one("one", "tried twice", |status| status.steps[1].attempts == 2).await;
    assert_eq!((phase(&status), status.succeeded()), ("Generating", None), "the other shards continue");
    env.finish("one", StepName::Generate, 0, 0, "").await;
    let status = env.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "TrainerFailed");
    assert!(
        text(&status, ConditionType::Stalled).contains("index 1"),
        "{}",
        text(&status, ConditionType::Stalled)
    );
    assert_eq!(env.pods_of("one").await.iter().filter(|pod| pod.name_any().contains("generate-")).count(), 5);
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_deadline_fails_the_run_and_a_later_one_with_a_retry_continues() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Train => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "  activeDeadlineSeconds: 3600\n").await;
    env.pod("one", StepName::Train, 0).await;
    env.edit("one", json!({"spec": {"activeDeadlineSeconds": 1}})).await;
    let status = env.until_one("one", "ended", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DeadlineExceeded");
    assert!(
        text(&status, ConditionType::Stalled).contains("raise that and spec.retry"),
        "{}",
        text(&status, ConditionType::Stalled)
    );
    env.wait_for_pods_to_end("one").await;
    env.edit("one", json!({"spec": {"activeDeadlineSeconds": 7200, "retry": 1}})).await;
    env.until_true("the Job has the new deadline", async || {
        let jobs = env.jobs_of("one").await;
        let deadline = |job: &Job| job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        jobs.iter().any(|job| !is_any(job, &["Complete"]) && deadline(job) > Some(4000))
    })
    .await;
    env.finish("one", StepName::Train, 0, 0, "").await;
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!((status.rerun, status.retry), (0, 1));
    let attempts = |step: usize| status.steps[step].attempts;
    assert_eq!((attempts(0), attempts(1)), (1, 1), "what was complete did not run again");
    pods_script.check().await;
}
