//! Runs from start to end.

use k8s_openapi::api::batch;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::StageOneRun;
use stic_crds::status::{RunStatus, StepState};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kubelet::{PodAction, end_pod, holding, step, success_message};
use crate::node::Node;
use crate::runs::phase;
use crate::test_env::{TestEnv, until};

fn is(status: &RunStatus, condition: ConditionType) -> Option<(String, String)> {
    status.condition(condition).map(|condition| (condition.status.clone(), condition.reason.clone()))
}

fn of(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn stage_two_waits_for_stage_one_and_both_succeed() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.start();
    env.two("two", "one").await;
    let waiting = env.until_two("two", "waiting", |status| phase(status) == "StageOneNotSucceeded").await;
    assert_eq!(is(&waiting, ConditionType::InputsReady), of("False", "StageOneNotSucceeded"));
    assert_eq!(
        is(&waiting, ConditionType::Reconciling),
        of("False", "StageOneNotSucceeded"),
        "kstatus: Current"
    );
    env.one("one", "  preferences: {shards: 2}\n").await;
    let one = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let two = env.until_two("two", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(one.steps.iter().map(|step| step.state).collect::<Vec<_>>(), [StepState::Succeeded; 3]);
    assert_eq!(one.steps[1].items.map(|items| items.total), Some(12_000), "of both shards");
    assert_eq!(
        one.resolved.and_then(|resolved| resolved.trainer_image).as_deref(),
        Some("registry/trainer@sha256:00")
    );
    let adapter = two.inputs.and_then(|inputs| inputs.adapter).expect("it is pinned");
    let adapter_of_one =
        one.artifacts.iter().find(|artifact| artifact.step == StepName::Train).expect("an adapter");
    assert_eq!(adapter.digest.as_ref(), Some(&adapter_of_one.digest));
    assert_eq!(env.jobs().await.len(), 6);
    env.until_true("the events of every phase are published", async || {
        let events = env.api::<Event>().list(&ListParams::default()).await.expect("events");
        let reasons: Vec<_> = events
            .iter()
            .filter(|event| event.involved_object.name.as_deref() == Some("one"))
            .filter_map(|event| event.reason.as_deref())
            .collect();
        ["Preparing", "Generating", "Training", "Succeeded"].iter().all(|reason| reasons.contains(reason))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn invalid_data_fails_at_once_with_the_message_of_the_trainer() {
    let mut env = TestEnv::new(|_, _| PodAction::Exit(65, "list.txt:3: no such image; fix the line")).await;
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "DataInvalid");
    assert_eq!(is(&status, ConditionType::Stalled), of("True", "DataInvalid"));
    let message = &status.condition(ConditionType::Succeeded).expect("it is there").message;
    assert_eq!(message, "step prepare failed: list.txt:3: no such image; fix the line");
    assert_eq!(status.steps[0].attempts, 1, "it is not retried");
    // A reconciliation after the failure launches nothing either.
    env.edit("one", json!({"spec": {"backoff": {"limit": 7}}})).await;
    env.until_one("one", "reconciled", |status| status.observed_generation == 2).await;
    assert_eq!(env.jobs().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_failure_that_may_pass_is_retried_within_the_limit() {
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (StepName::Prepare, 1) => PodAction::Exit(74, "disk full; make room"),
        (StepName::Train, _) => PodAction::Exit(1, "a bug"),
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "  backoff: {limit: 1}\n").await;
    let status = env.until_one("one", "failed", |status| status.succeeded() == Some(false)).await;
    assert_eq!(phase(&status), "TrainerFailed");
    assert_eq!(status.steps.iter().map(|step| step.attempts).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(
        env.jobs().await.len(),
        3,
        "Kubernetes restarts pods; a second Job would multiply the retries"
    );
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_suspended_run_ends_its_pods_and_resumes() {
    let mut env = TestEnv::new(holding([(StepName::Generate, 1)])).await;
    env.start();
    env.one("one", "").await;
    env.until_one("one", "generating", |status| phase(status) == "Generating").await;
    env.pod("one", StepName::Generate, 0).await;
    let suspended = env.suspend("one").await;
    assert_eq!(is(&suspended, ConditionType::Suspended), of("True", "Suspended"));
    assert_eq!(suspended.steps[1].state, StepState::Suspended);
    env.resume("one").await;
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(status.observed_generation, 3);
    assert_eq!(env.jobs().await.len(), 3);
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_has_ended_stays_so_until_a_rerun() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.start();
    env.one("one", "").await;
    let first = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    for job in env.jobs().await {
        let api = env.api::<batch::v1::Job>();
        api.delete(&job.name_any(), &DeleteParams::background()).await.expect("it is deleted");
    }
    env.edit("one", json!({"spec": {"backoff": {"limit": 7}}})).await;
    let touched = env.until_one("one", "reconciled", |status| status.observed_generation == 2).await;
    assert_eq!(touched.completion_time, first.completion_time);
    assert!(env.jobs().await.is_empty(), "a run that has ended never starts again");
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    let second =
        env.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    assert_eq!(env.jobs().await.len(), 3);
    assert!(second.steps[0].job_uid != first.steps[0].job_uid);
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_missing_claim_is_named_and_creating_it_starts_the_run() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let claims = env.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    claims.delete("coco", &DeleteParams::default()).await.expect("it is deleted");
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "waiting", |status| phase(status) == "ClaimMissing").await;
    assert_eq!(is(&status, ConditionType::InputsReady), of("False", "ClaimMissing"));
    assert!(
        status
            .condition(ConditionType::Succeeded)
            .is_some_and(|it| it.message.contains("PersistentVolumeClaim coco"))
    );
    assert!(env.jobs().await.is_empty());
    env.claim("coco").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_deleted_job_is_created_again_and_a_deleted_pod_is_replaced() {
    let mut env = TestEnv::new(holding([(StepName::Generate, 1), (StepName::Train, 1)])).await;
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "generating", |status| phase(status) == "Generating").await;
    let job = status.steps[1].job_name.clone().expect("it is recorded");
    // A pod that the kubelet never saw would not count.
    env.pod("one", StepName::Generate, 0).await;
    let api = env.api::<batch::v1::Job>();
    api.delete(&job, &DeleteParams::background()).await.expect("it is deleted");
    let status = env.until_one("one", "training", |status| phase(status) == "Training").await;
    assert_ne!(status.steps[1].job_name.as_ref(), Some(&job));
    let pods = env.api::<Pod>();
    let pod = env.pod("one", StepName::Train, 0).await.name_any();
    pods.delete(&pod, &DeleteParams::default()).await.expect("it is deleted");
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

/// A Job counts a pod that succeeds although it was deleted, and creates no other.
#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn the_result_of_a_pod_that_was_deleted_is_not_lost() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Generate => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "  preferences: {shards: 2}\n").await;
    // The kubelet gives a deleted pod its grace period.
    let node = Node::new(&env).await;
    let pods = env.api::<Pod>();
    // One pod is deleted after it has ended, the other while it is ending.
    let first = env.pod("one", StepName::Generate, 0).await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    until("counted", async || {
        let jobs = env.jobs_of("one").await;
        let counts =
            |job: &batch::v1::Job| job.status.as_ref().and_then(|status| status.succeeded) == Some(1);
        jobs.iter().any(|job| job.name_any().contains("generate") && counts(job)).then_some(())
    })
    .await;
    env.confirm_deletion(&first).await;
    let second = env.pod("one", StepName::Generate, 1).await;
    node.bind_pod(&second).await;
    pods.delete(&second.name_any(), &DeleteParams::default()).await.expect("it is deleted");
    end_pod(&pods, &second, 0, &success_message(&second)).await;
    env.confirm_deletion(&second).await;
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let left = env.pods_of("one").await;
    assert!(!left.iter().any(|pod| [&first, &second].iter().any(|gone| gone.uid() == pod.uid())), "{left:?}");
    assert_eq!(env.jobs_of("one").await.len(), 3, "no step ran twice");
    let items = status.steps[1].items.as_ref().map(|items| items.total);
    assert_eq!(items, Some(12_000), "of both");
    node.remove().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn the_children_of_a_deleted_run_are_deleted() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    env.start();
    let claim = "  retention: {whenDeleted: Delete}\n";
    env.one("one", claim).await;
    env.until_one("one", "preparing", |status| {
        status.steps.first().is_some_and(|step| step.job_name.is_some())
    })
    .await;
    let runs = env.api::<StageOneRun>();
    runs.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    env.until_true("the children are deleted", async || {
        let maps = env.api::<ConfigMap>().list(&ListParams::default().labels("stic.dev/run=one")).await;
        env.jobs().await.is_empty() && maps.expect("ConfigMaps").items.is_empty()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn children_are_deleted_if_retention_says_so_and_the_run_is_kept() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.start();
    env.one("one", "  retention: {children: Delete}\n").await;
    let done = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    env.until_true("the children are deleted", async || env.jobs().await.is_empty()).await;
    // A reconciliation after the deletion creates nothing, and changes nothing but the generation.
    env.edit("one", json!({"spec": {"backoff": {"limit": 7}}})).await;
    let later = env.until_one("one", "reconciled", |status| status.observed_generation == 2).await;
    assert!(env.jobs().await.is_empty(), "no Job is created again");
    assert_eq!(later.phase(), done.phase());
    assert_eq!((later.steps, later.artifacts), (done.steps, done.artifacts));
    assert_eq!((later.completion_time, later.inputs), (done.completion_time, done.inputs));
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn the_owner_of_an_output_claim_follows_retention() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.start();
    env.one_with_claim("one", "  retention: {whenDeleted: Delete}\n").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let claims = env.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    let owners =
        || async { claims.get("one-output").await.expect("it was created").owner_references().len() };
    assert_eq!(owners().await, 1);
    env.edit("one", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    env.until_one("one", "reconciled", |status| status.observed_generation == 2).await;
    assert_eq!(owners().await, 0, "even after the run has ended");
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn the_progress_of_a_pod_is_reported_and_kept_while_it_does_not_respond() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Train => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    let served = serve(&env.address).await;
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "moving", |status| status.progress.is_some()).await;
    let display = status.display.expect("it is shown");
    assert_eq!((display.progress.as_deref(), display.loss.as_deref()), (Some("41%"), Some("0.610")));
    served.abort();
    // The second reconciliation from here on starts after the server is gone.
    let before = env.reconciliations().await;
    env.until_true("reconciled twice", async || env.reconciliations().await >= before + 2).await;
    let silent = env.status_of("one").await;
    assert_eq!(phase(&silent), "Training", "a pod that does not respond has not failed");
    assert_eq!(silent.progress, status.progress, "the last progress is kept");
    let pods = env.api::<Pod>();
    let all = pods.list(&ListParams::default()).await.expect("pods").items;
    let pod = all.into_iter().find(|pod| step(pod) == StepName::Train).expect("it runs");
    end_pod(&pods, &pod, 0, &success_message(&pod)).await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

/// Serves the progress of a trainer.
pub(crate) async fn serve(address: &str) -> tokio::task::JoinHandle<()> {
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
