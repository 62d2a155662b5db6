//! The states of steps, read from Jobs and pods that are whole objects as the API server has them.

use std::sync::Arc;

use serde_json::{Value, json};
use stic_contract::{ExitCode, StepName, StepResult};
use stic_crds::Reason;
use stic_operator::cluster::job_state::{JobState, Reading, read};
use stic_operator::cluster::missing_pods::{MissingPods, missing_pods};
use stic_operator::cluster::objects::{Job, Pod};
use stic_operator::cluster::pod_trouble::is_idle;
use stic_operator::snapshot::StepOutcome;

use crate::common::{at, result};

const NOW: &str = "2026-11-24T10:10:00Z";

fn job(completions: u32, suspend: bool, conditions: Value) -> Job {
    serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "a-generate-0123abcd", "namespace": "n", "uid": "j", "creationTimestamp": "2026-11-24T10:00:00Z"},
        "spec": {"completions": completions, "parallelism": completions, "suspend": suspend, "template": {}},
        "status": {"conditions": conditions, "startTime": "2026-11-24T10:00:00Z"},
    }))
    .expect("a Job")
}

fn open(completions: u32) -> Job {
    job(completions, false, json!([]))
}

fn complete(completions: u32) -> Job {
    job(
        completions,
        false,
        json!([{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]),
    )
}

fn failed(reason: &str, message: &str) -> Job {
    job(1, false, json!([{"type": "Failed", "status": "True", "reason": reason, "message": message}]))
}

fn pod(index: u32, phase: &str, state: Value, conditions: Value) -> Arc<Pod> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p-{index}"), "namespace": "n",
            "annotations": {"batch.kubernetes.io/job-completion-index": index.to_string()},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]},
        "spec": {"nodeName": "node-7", "containers": []},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": [{
            "name": "trainer", "image": "registry/trainer:1", "imageID": "", "ready": state.get("running").is_some(),
            "restartCount": 0, "state": state}]},
    });
    Arc::new(serde_json::from_value(pod).expect("a Pod"))
}

fn ended(index: u32, code: i32, message: &str) -> Arc<Pod> {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let reason = if code == 0 { "Completed" } else { "Error" };
    pod(
        index,
        phase,
        json!({"terminated": {"exitCode": code, "reason": reason, "message": message}}),
        json!([]),
    )
}

fn succeeded(index: u32) -> Arc<Pod> {
    ended(index, 0, &result(StepName::Generate).to_termination_message())
}

fn failed_with(index: u32, code: i32, message: &str) -> Arc<Pod> {
    let result = StepResult { message: Some(message.into()), ..StepResult::new(StepName::Generate) };
    ended(index, code, &result.to_termination_message())
}

fn running(index: u32) -> Arc<Pod> {
    pod(index, "Running", json!({"running": {}}), json!([{"type": "Ready", "status": "True"}]))
}

fn waiting(reason: &str) -> Arc<Pod> {
    pod(0, "Pending", json!({"waiting": {"reason": reason, "message": "Back-off."}}), json!([]))
}

fn pending(why: &str) -> Arc<Pod> {
    let condition =
        json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}]);
    pod(0, "Pending", json!({}), condition)
}

fn state(job: &Job, pods: &[Arc<Pod>]) -> JobState {
    read(StepName::Generate, job, pods, &at(NOW))
}

fn outcome(job: &Job, pods: &[Arc<Pod>]) -> StepOutcome {
    match state(job, pods).reading {
        Reading::Outcome(outcome) => outcome,
        missing => panic!("{missing:?}"),
    }
}

#[test]
fn the_result_of_a_step_is_the_sum_of_its_indexes() {
    let pods = [failed_with(0, 74, "disk full"), succeeded(0), succeeded(1)];
    let JobState { reading, attempts, interrupted, last_failure, device_failed: _ } =
        state(&complete(2), &pods);
    let Reading::Outcome(StepOutcome::Succeeded(result)) = reading else { panic!("{reading:?}") };
    assert_eq!(result.items.map(|items| items.total), Some(12_000));
    assert_eq!((attempts, interrupted), (2, 0));
    assert_eq!(last_failure.as_deref(), Some("disk full"));
    assert_eq!(state(&complete(2), &pods[..2]).reading, Reading::ResultMissing { index: 1 });
    assert_eq!(state(&complete(1), &[]).reading, Reading::ResultMissing { index: 0 });
}

#[test]
fn a_gpu_that_fails_is_an_interruption_that_names_its_node() {
    let pods = [failed_with(0, 76, "the GPU failed: an uncorrectable ECC error")];
    let state = state(&open(1), &pods);
    assert_eq!((state.interrupted, state.device_failed), (1, true));
    assert_eq!(
        state.last_failure.as_deref(),
        Some("node node-7: the GPU failed: an uncorrectable ECC error")
    );
    let Reading::Outcome(StepOutcome::Waiting { reason, message }) = state.reading else {
        panic!("{state:?}")
    };
    assert_eq!(reason, Reason::Generating);
    assert!(message.contains("is being retried: node node-7: the GPU failed"), "{message}");
}

#[test]
fn what_ended_a_job_explains_its_failure_and_not_the_pods_that_it_ended() {
    let ended_at = |pod: Arc<Pod>, time: &str| {
        let mut pod = Arc::unwrap_or_clone(pod);
        let ended = pod.status.container_statuses[0].state.terminated.as_mut().expect("it has ended");
        ended.finished_at = Some(at(time));
        Arc::new(pod)
    };
    let pods = [
        ended_at(failed_with(0, 71, "the GPU ran out of memory"), "2026-11-24T10:01:00Z"),
        ended_at(failed_with(1, 75, "interrupted"), "2026-11-24T10:02:00Z"),
    ];
    let StepOutcome::Failed { reason, message, .. } = outcome(&failed("PodFailurePolicy", ""), &pods) else {
        panic!("it has failed")
    };
    assert_eq!((reason, message.as_str()), (Reason::OutOfMemory, "the GPU ran out of memory"));
}

#[test]
fn an_invalid_result_fails_for_good() {
    for message in ["", "panicked at", "{\"step\":\"train\"}"] {
        let StepOutcome::Failed { reason, exhausted, .. } = outcome(&complete(1), &[ended(0, 0, message)])
        else {
            panic!("{message} is not a result")
        };
        assert_eq!((reason, exhausted), (Reason::ResultIncomplete, true));
    }
}

#[test]
fn a_failed_job_reports_the_message_of_its_trainer() {
    let long = "x".repeat(5000);
    /// The Job's reason and message, its pods, and the reason and message to expect.
    type Case<'a> = (&'a str, &'a str, Vec<Arc<Pod>>, Reason, &'a str);
    let cases: [Case<'_>; 9] = [
        (
            "PodFailurePolicy",
            "",
            vec![failed_with(0, 65, "a.jsonl:3: bad; fix it")],
            Reason::DataInvalid,
            "a.jsonl:3: bad; fix it",
        ),
        (
            "PodFailurePolicy",
            "",
            vec![failed_with(0, 64, "no"), failed_with(0, 74, "later")],
            Reason::ConfigInvalid,
            "no",
        ),
        (
            "BackoffLimitExceeded",
            "",
            vec![failed_with(0, 74, "disk full")],
            Reason::StorageFailed,
            "disk full",
        ),
        (
            "FailedIndexes",
            "",
            vec![succeeded(0), ended(1, 1, "thread panicked")],
            Reason::TrainerFailed,
            "thread panicked",
        ),
        (
            "BackoffLimitExceeded",
            "",
            vec![ended(0, 1, &long)],
            Reason::TrainerFailed,
            &format!("…{}", "x".repeat(600)),
        ),
        (
            "BackoffLimitExceeded",
            "",
            vec![ended(0, 137, "step 3 of 9")],
            Reason::TrainerFailed,
            "it was killed without time to save its state; its log ends with: step 3 of 9",
        ),
        (
            "BackoffLimitExceeded",
            "",
            vec![ended(0, 139, "")],
            Reason::TrainerFailed,
            "it ended with exit code 139 and left no message",
        ),
        (
            "PodFailurePolicy",
            "Container trainer for pod n/p failed with exit code 65 matching FailJob rule at index 1",
            vec![],
            Reason::DataInvalid,
            "Container trainer for pod n/p failed with exit code 65 matching FailJob rule at index 1",
        ),
        (
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
            vec![],
            Reason::DeadlineExceeded,
            "Kubernetes ended its Job at its deadline; raise spec.activeDeadlineSeconds and spec.retry",
        ),
    ];
    for (why, text, pods, reason, message) in cases {
        let expected =
            StepOutcome::Failed { reason, exhausted: why != "DeadlineExceeded", message: message.to_owned() };
        assert_eq!(outcome(&failed(why, text), &pods), expected);
    }
}

#[test]
fn running_out_of_memory_is_named() {
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    let StepOutcome::Failed { reason, message, .. } =
        outcome(&failed("BackoffLimitExceeded", ""), &[pod(0, "Failed", killed, json!([]))])
    else {
        panic!("the step did not fail")
    };
    assert_eq!((reason, message.as_str()), (Reason::OutOfMemory, "it ran out of memory and was killed"));
}

#[test]
fn what_keeps_pods_from_running_is_named_with_a_remedy() {
    let lost = pod(0, "Running", json!({"running": {}}), json!([{"type": "Ready", "status": "False"}]));
    let cases = [
        (
            pending("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            Reason::Unschedulable,
            "Insufficient nvidia.com/gpu; free or add",
        ),
        (pending("pod has unbound immediate PersistentVolumeClaims."), Reason::ClaimUnbound, "storage class"),
        (pending("persistentvolumeclaim \"coco\" not found"), Reason::ClaimMissing, "create the claim"),
        (
            pending("persistentvolumeclaim \"coco\" is being deleted."),
            Reason::ClaimTerminating,
            "create the claim again",
        ),
        (
            waiting("ImagePullBackOff"),
            Reason::ImagePullFailed,
            "cannot start image registry/trainer:1: Back-off; make",
        ),
        (waiting("CreateContainerConfigError"), Reason::PodStartFailed, "spec.pod"),
        (lost, Reason::NodeLost, "kubectl taint nodes node-7 node.kubernetes.io/out-of-service"),
    ];
    for (pod, expected, part) in cases {
        let StepOutcome::Waiting { reason, message } = outcome(&open(1), &[pod]) else {
            panic!("{expected:?}")
        };
        assert_eq!(reason, expected);
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(outcome(&open(1), &[waiting("ContainerCreating")]), StepOutcome::Starting);
    assert_eq!(outcome(&open(1), &[]), StepOutcome::Starting);
    let StepOutcome::Waiting { reason, message } = outcome(&open(2), &[pending("full"), running(1)]) else {
        panic!("one waits")
    };
    assert_eq!(reason, Reason::Generating, "the other pod is running");
    assert!(message.starts_with("step generate is running, but 1 of its 2 pods cannot run"), "{message}");
}

#[test]
fn the_failure_is_reported_while_kubernetes_waits_to_retry() {
    let again = |message: &str| StepOutcome::Waiting { reason: Reason::Generating, message: message.into() };
    let full = failed_with(0, 74, "disk full; free space");
    assert_eq!(
        outcome(&open(1), std::slice::from_ref(&full)),
        again("step generate is being retried: disk full; free space")
    );
    assert_eq!(outcome(&open(1), &[full.clone(), running(0)]), StepOutcome::Running, "it was retried");
    assert_eq!(
        outcome(&open(3), &[succeeded(0), ended(1, 137, ""), running(2)]),
        again("index 1 of step generate is being retried: it was killed without time to save its state")
    );
    let mut limit = open(8);
    limit.status.failed_indexes = Some("1,3-5".into());
    assert_eq!(
        outcome(&limit, &[running(0), ended(4, 1, "panicked")]),
        again("step generate is running, but its index 4 has failed for good: panicked")
    );
    assert_eq!(
        outcome(&open(1), &[failed_with(0, 75, "saved")]),
        StepOutcome::Running,
        "it is resumed at once"
    );
    assert_eq!(outcome(&open(1), &[failed_with(0, 65, "bad")]), StepOutcome::Running, "it is not retried");
}

#[test]
fn a_pod_that_does_not_end_is_on_a_lost_node_only_if_the_node_controller_says_so() {
    let deleted = |until: &str, ready: Value| {
        let mut pod = pod(0, "Running", json!({"running": {}}), json!([ready])).as_ref().clone();
        pod.metadata.deletion_timestamp = Some(at(until));
        outcome(&open(1), &[Arc::new(pod)])
    };
    let reason = |outcome: StepOutcome| match outcome {
        StepOutcome::Waiting { reason, message } => (reason, message.contains("kubectl taint")),
        other => panic!("{other:?}"),
    };
    let (late, in_time) = ("2026-11-24T10:00:00Z", "2026-11-24T10:09:50Z");
    let ready = json!({"type": "Ready", "status": "True"});
    assert_eq!(deleted(in_time, ready.clone()), StepOutcome::Running, "it has its grace period");
    assert_eq!(reason(deleted(late, ready)), (Reason::PodNotEnding, false), "its node responds");
    let by_kubelet = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"});
    assert_eq!(reason(deleted(late, by_kubelet)), (Reason::PodNotEnding, false));
    let by_node_controller = json!({"type": "Ready", "status": "False"});
    assert_eq!(reason(deleted(late, by_node_controller)), (Reason::NodeLost, true));
}

/// A pod with a second container, which runs.
fn with_sidecar(trainer: Value) -> Arc<Pod> {
    let not_ready = json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]);
    let mut pod = pod(0, "Running", trainer, not_ready).as_ref().clone();
    let sidecar =
        json!({"name": "istio-proxy", "image": "istio/proxyv2", "ready": true, "state": {"running": {}}});
    pod.status.container_statuses.push(serde_json::from_value(sidecar).expect("a status"));
    Arc::new(pod)
}

#[test]
fn a_second_container_is_not_a_lost_node() {
    let pulling = with_sidecar(json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(outcome(&open(1), &[pulling]), StepOutcome::Starting);
    let ended = |code: i32, finished: &str, message: &str| {
        with_sidecar(json!({"terminated": {"exitCode": code, "message": message, "finishedAt": finished}}))
    };
    for (code, words) in
        [(65, "(exit code 65: images: no such folder)"), (0, "(exit code 0: it has succeeded)")]
    {
        let message = if code == 0 { "{}" } else { "images: no such folder" };
        let StepOutcome::Waiting { reason, message } =
            outcome(&open(1), &[ended(code, "2026-11-24T10:09:00Z", message)])
        else {
            panic!("it waits for the sidecar")
        };
        assert_eq!(reason, Reason::SidecarRunning);
        assert!(message.contains(words) && message.contains("container istio-proxy"), "{message}");
        assert!(message.contains("spec.pod.annotations"), "{message}");
        let just_now = ended(code, "2026-11-24T10:09:58Z", message.as_str());
        assert_eq!(outcome(&open(1), &[just_now]), StepOutcome::Running, "a sidecar may end by itself");
    }
    let idle = |pod: &Pod| is_idle(StepName::Generate, pod, &at(NOW));
    assert!(
        idle(&with_sidecar(json!({"waiting": {"reason": "ImagePullBackOff"}}))),
        "the trainer has not started"
    );
    assert!(!idle(&with_sidecar(json!({"running": {}}))) && !idle(&running(0)));
    assert!(!idle(&ended(0, "2026-11-24T10:09:58Z", "{}")), "the pod is about to end");
    assert!(idle(&ended(0, "2026-11-24T10:09:00Z", "{}")), "only the sidecar runs");
    let mut kept = with_sidecar(json!({"terminated": {"exitCode": 0}})).as_ref().clone();
    let unpulled = json!({"name": "agent", "image": "a", "state": {"waiting": {"reason": "ErrImagePull"}}});
    kept.status.container_statuses[1] = serde_json::from_value(unpulled).expect("a status");
    assert!(idle(&kept), "the image of the sidecar cannot be pulled");
    let gated = json!([{"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}]);
    let gated = pod(0, "Running", json!({"running": {}}), gated);
    assert_eq!(outcome(&open(1), &[gated]), StepOutcome::Running);
}

#[test]
fn the_failure_of_another_container_is_named() {
    let mut pod = succeeded(0).as_ref().clone();
    pod.status.phase = Some("Failed".into());
    let failed_one =
        json!({"name": "vault-agent", "state": {"terminated": {"exitCode": 75, "message": "no token"}}});
    pod.status.container_statuses.push(serde_json::from_value(failed_one).expect("a status"));
    let StepOutcome::Failed { reason, exhausted: true, message } =
        outcome(&failed("BackoffLimitExceeded", ""), &[Arc::new(pod)])
    else {
        panic!("it failed")
    };
    assert_eq!(reason, Reason::ContainerFailed);
    assert!(message.contains("container vault-agent ended with exit code 75: no token"), "{message}");
}

#[test]
fn the_failure_of_another_container_is_named_while_kubernetes_waits_to_retry() {
    let container = |name: &str, state: Value| json!([{"name": name, "state": state}]);
    let before = json!({"phase": "Failed",
        "initContainerStatuses": container("agent", json!({"terminated": {"exitCode": 1, "message": "no route"}})),
        "containerStatuses": container("trainer", json!({"waiting": {"reason": "PodInitializing"}}))});
    let beside = json!({"phase": "Failed", "containerStatuses": [
        {"name": "trainer", "state": {"terminated": {"exitCode": 0, "message": "{}"}}},
        {"name": "agent", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
    for (status, words) in
        [(before, "agent ended with exit code 1: no route"), (beside, "137: it ran out of memory")]
    {
        let pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": status});
        let pods = [Arc::new(serde_json::from_value(pod).expect("a pod"))];
        let StepOutcome::Waiting { reason, message } = outcome(&open(1), &pods) else { panic!("it waits") };
        assert_eq!(reason, Reason::Generating);
        assert!(message.contains("is being retried") && message.contains(words), "{message}");
        let last = state(&open(1), &pods).last_failure.expect("a failure");
        assert!(last.contains(words), "{last}");
    }
}

#[test]
fn a_job_that_stays_because_of_a_finalizer_is_named() {
    let mut job = open(1);
    job.metadata.deletion_timestamp = Some(at(NOW));
    let StepOutcome::Waiting { message, .. } = outcome(&job, &[running(0)]) else { panic!("it waits") };
    assert!(message.contains("is being deleted") && message.contains("finalizers"), "{message}");
}

/// A pod that the kubelet refused.
fn refused(index: u32, reason: &str) -> Arc<Pod> {
    let mut pod =
        pod(index, "Failed", json!({}), json!([{"type": "PodScheduled", "status": "True"}])).as_ref().clone();
    pod.status.container_statuses.clear();
    pod.status.reason = Some(reason.into());
    pod.status.message = Some("Allocate failed due to no healthy devices present".into());
    Arc::new(pod)
}

#[test]
fn pods_that_a_kubelet_refuses_do_not_spend_the_retries() {
    let by_kubelet =
        "the kubelet of node node-7 refused the pod before it started: UnexpectedAdmissionError: Allocate";
    let pods = [failed_with(0, 74, "disk full"), refused(0, "UnexpectedAdmissionError")];
    let StepOutcome::Failed { reason, exhausted, message } =
        outcome(&failed("BackoffLimitExceeded", ""), &pods)
    else {
        panic!("the Job failed")
    };
    assert_eq!((reason, exhausted), (Reason::PodRejected, false), "another Job may follow");
    assert!(message.starts_with(by_kubelet) && message.contains("device plugins"), "{message}");
    let StepOutcome::Waiting { reason, message } = outcome(&open(1), &pods) else { panic!("it is retried") };
    assert_eq!(reason, Reason::PodRejected);
    assert!(message.contains(by_kubelet), "{message}");
    // The trainer failed last, but refused pods had used up its retries.
    let pods = [refused(0, "OutOfmemory"), refused(0, "OutOfcpu"), failed_with(0, 74, "disk full")];
    let ended = outcome(&failed("BackoffLimitExceeded", ""), &pods);
    assert!(matches!(ended, StepOutcome::Failed { reason: Reason::PodRejected, exhausted: false, .. }));
    // An index that the trainer made fail decides, as do exit codes that are never retried.
    let mut two = failed("FailedIndexes", "");
    two.spec.completions = Some(2);
    two.status.failed_indexes = Some("0,1".into());
    let pods = [refused(0, "OutOfcpu"), failed_with(1, 74, "disk full")];
    let ended = outcome(&two, &pods);
    assert!(matches!(ended, StepOutcome::Failed { reason: Reason::StorageFailed, exhausted: true, .. }));
    let fatal = [refused(0, "OutOfcpu"), failed_with(0, 65, "bad")];
    let ended = outcome(&failed("PodFailurePolicy", ""), &fatal);
    assert!(matches!(ended, StepOutcome::Failed { reason: Reason::DataInvalid, exhausted: true, .. }));
    // An evicted pod had been admitted.
    let mut evicted = refused(0, "Evicted").as_ref().clone();
    evicted.status.conditions.push(
        serde_json::from_value(json!({"type": "DisruptionTarget", "status": "True"})).expect("a condition"),
    );
    let ended = outcome(&failed("BackoffLimitExceeded", ""), &[Arc::new(evicted)]);
    assert!(matches!(ended, StepOutcome::Failed { reason: Reason::TrainerFailed, .. }));
}

#[test]
fn suspended_and_queued_jobs_are_reported() {
    let waits = |job: &Job| match outcome(job, &[]) {
        StepOutcome::Waiting { reason, message } => (reason, message),
        other => panic!("{other:?}"),
    };
    let mut held = job(1, true, json!([{"type": "Suspended", "status": "True"}]));
    let (reason, message) = waits(&held);
    assert_eq!(reason, Reason::Queued, "the operator did not suspend it");
    assert!(message.contains("not spec.suspend"), "{message}");
    held.metadata.labels = Some([("kueue.x-k8s.io/queue-name".to_owned(), "research".to_owned())].into());
    let (reason, message) = waits(&held);
    assert_eq!(reason, Reason::Queued);
    assert!(message.contains("queue research"), "{message}");
    held.metadata.annotations =
        Some([("stic.dev/suspended-by".to_owned(), "stic-operator".to_owned())].into());
    assert_eq!(waits(&held).0, Reason::Suspended);
}

#[test]
fn an_index_that_failed_for_good_ends_a_queued_step() {
    let mut job = open(3);
    job.status.failed_indexes = Some("1".into());
    let pods = [running(0), failed_with(1, 74, "disk full"), running(2)];
    assert!(outcome(&job, &pods).is_open(), "the other indexes go on");
    job.metadata.labels = Some([("kueue.x-k8s.io/queue-name".to_owned(), "research".to_owned())].into());
    let StepOutcome::Failed { reason, message, exhausted } = outcome(&job, &pods) else {
        panic!("Kueue would evict the healthy pods")
    };
    assert_eq!((reason, exhausted), (Reason::StorageFailed, true));
    assert!(message.contains("index 1 of 3: disk full"), "{message}");
}

#[test]
fn a_job_whose_completions_were_reduced_is_incomplete() {
    let mut whole = result(StepName::Generate);
    whole.shards = whole.shards.map(|shards| stic_contract::config::ShardSet { shards: 2, ..shards });
    let pods = [ended(0, 0, &whole.to_termination_message())];
    let StepOutcome::Failed { reason, message, .. } = outcome(&complete(1), &pods) else {
        panic!("one shard of two is missing")
    };
    assert_eq!(reason, Reason::ResultIncomplete);
    assert!(message.contains("2 shards"), "{message}");
}

#[test]
fn disruptions_from_outside_do_not_count_as_interruptions() {
    let code = i32::from(ExitCode::Interrupted.code());
    let drained = pod(
        0,
        "Failed",
        json!({"terminated": {"exitCode": code}}),
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]),
    );
    let pods = [ended(0, code, ""), drained.clone(), ended(0, code, ""), ended(1, code, ""), running(0)];
    assert_eq!(state(&open(2), &pods).interrupted, 2, "of the index that has most");
    assert_eq!(state(&open(1), &[drained]).interrupted, 0);
}

#[test]
fn a_job_has_a_moment_to_create_its_pods() {
    let lack = |job: &Job, pods: &[Arc<Pod>], now: &str| {
        missing_pods(job, pods, &at(now)).map(|MissingPods { missing, wanted, .. }| (missing, wanted))
    };
    assert_eq!(lack(&open(3), &[], NOW), Some((3, 3)));
    assert_eq!(lack(&open(3), &[], "2026-11-24T10:00:05Z"), None);
    assert_eq!(
        lack(&open(3), &[running(0), ended(1, 1, "")], NOW),
        Some((2, 3)),
        "a pod that ended does not count"
    );
    assert_eq!(lack(&open(1), &[running(0)], NOW), None);
    assert_eq!(lack(&job(1, true, json!([])), &[], NOW), None);
    assert_eq!(lack(&complete(1), &[], NOW), None);
    let mut late = open(9);
    late.spec.parallelism = Some(4);
    let status = &mut late.status;
    status.succeeded = 2;
    status.failed_indexes = Some("1,3-5".into());
    assert_eq!(lack(&late, &[running(0)], NOW), Some((2, 3)), "three indexes are left");
    let mut admitted_in_part = open(3);
    admitted_in_part.spec.parallelism = Some(1);
    assert_eq!(lack(&admitted_in_part, &[running(0)], NOW), None, "a queue gave it one pod at a time");
}
