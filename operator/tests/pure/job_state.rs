//! What Jobs and pods say, from whole objects as the API server holds them.

use std::sync::Arc;

use serde_json::{Value, json};
use stic_contract::{ExitCode, StepName, StepResult};
use stic_operator::Reason;
use stic_operator::cluster::job_state::{JobState, MissingPods, Reading, missing_pods, read};
use stic_operator::cluster::objects::{Job, Pod};
use stic_operator::plan::StepOutcome;

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

fn done(index: u32) -> Arc<Pod> {
    ended(index, 0, &result(StepName::Generate).to_termination_message())
}

fn said(index: u32, code: i32, message: &str) -> Arc<Pod> {
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
fn a_done_step_is_the_sum_of_its_indexes() {
    let pods = [said(0, 74, "disk full"), done(0), done(1)];
    let JobState { reading, attempts, interrupted } = state(&complete(2), &pods);
    let Reading::Outcome(StepOutcome::Succeeded(result)) = reading else { panic!("{reading:?}") };
    assert_eq!(result.items.map(|items| items.total), Some(12_000));
    assert_eq!((attempts, interrupted), (2, 0));
    assert_eq!(state(&complete(2), &pods[..2]).reading, Reading::ResultMissing { index: 1 });
    assert_eq!(state(&complete(1), &[]).reading, Reading::ResultMissing { index: 0 });
}

#[test]
fn a_result_that_is_none_fails_for_good() {
    for message in ["", "panicked at", "{\"step\":\"train\"}"] {
        let StepOutcome::Failed { reason, retryable, .. } = outcome(&complete(1), &[ended(0, 0, message)])
        else {
            panic!("{message} is no result")
        };
        assert_eq!((reason, retryable), (Reason::ResultIncomplete, false));
    }
}

#[test]
fn a_failed_job_says_what_its_trainer_said() {
    let long = "x".repeat(5000);
    /// The Job's reason and message, its pods, and what is made of them.
    type Case<'a> = (&'a str, &'a str, Vec<Arc<Pod>>, Reason, &'a str);
    let cases: [Case<'_>; 9] = [
        (
            "PodFailurePolicy",
            "",
            vec![said(0, 65, "a.jsonl:3: bad; mend it")],
            Reason::DataInvalid,
            "a.jsonl:3: bad; mend it",
        ),
        ("PodFailurePolicy", "", vec![said(0, 64, "no"), said(0, 74, "later")], Reason::ConfigInvalid, "no"),
        ("BackoffLimitExceeded", "", vec![said(0, 74, "disk full")], Reason::StorageFailed, "disk full"),
        (
            "FailedIndexes",
            "",
            vec![done(0), ended(1, 1, "thread panicked")],
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
            "it was killed with no time to save; the end of its log: step 3 of 9",
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
            "it did not end within spec.activeDeadlineSeconds; raise that and spec.rerun",
        ),
    ];
    for (why, text, pods, reason, message) in cases {
        let expected = StepOutcome::Failed { reason, retryable: false, message: message.to_owned() };
        assert_eq!(outcome(&failed(why, text), &pods), expected);
    }
}

#[test]
fn lack_of_memory_is_named() {
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    let StepOutcome::Failed { message, .. } =
        outcome(&failed("BackoffLimitExceeded", ""), &[pod(0, "Failed", killed, json!([]))])
    else {
        panic!("it failed")
    };
    assert!(message.contains("memory ran out; raise spec.pod.resources.limits.memory"), "{message}");
}

#[test]
fn what_is_in_the_way_of_pods_is_named_with_the_mend() {
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
            "image registry/trainer:1 cannot be started: Back-off; make",
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
    assert_eq!(outcome(&open(1), &[waiting("ContainerCreating")]), StepOutcome::Running);
    let StepOutcome::Waiting { reason, message } = outcome(&open(2), &[pending("full"), running(1)]) else {
        panic!("one waits")
    };
    assert_eq!(reason, Reason::Generating, "the rest goes on");
    assert!(message.starts_with("step generate runs, but 1 of its 2 pods does not"), "{message}");
}

#[test]
fn while_kubernetes_waits_to_try_again_it_is_known_why() {
    let again = |message: &str| StepOutcome::Waiting { reason: Reason::Generating, message: message.into() };
    let full = said(0, 74, "disk full; free space");
    assert_eq!(
        outcome(&open(1), std::slice::from_ref(&full)),
        again("step generate is tried again: disk full; free space")
    );
    assert_eq!(outcome(&open(1), &[full.clone(), running(0)]), StepOutcome::Running, "it has been tried");
    assert_eq!(
        outcome(&open(3), &[done(0), ended(1, 137, ""), running(2)]),
        again("index 1 of step generate is tried again: it was killed with no time to save")
    );
    let mut limit = open(8);
    limit.status.failed_indexes = Some("1,3-5".into());
    assert_eq!(
        outcome(&limit, &[running(0), ended(4, 1, "panicked")]),
        again("step generate goes on with the other indexes, but index 4 failed for good: panicked")
    );
    assert_eq!(outcome(&open(1), &[said(0, 75, "saved")]), StepOutcome::Running, "it is resumed at once");
    assert_eq!(outcome(&open(1), &[said(0, 65, "bad")]), StepOutcome::Running, "it is not tried again");
}

#[test]
fn a_pod_whose_end_nobody_confirms_is_on_a_lost_node() {
    let overdue = |until: &str| {
        let mut pod = running(0).as_ref().clone();
        pod.metadata.deletion_timestamp = Some(at(until));
        outcome(&open(1), &[Arc::new(pod)])
    };
    assert!(matches!(overdue("2026-11-24T10:00:00Z"), StepOutcome::Waiting { reason: Reason::NodeLost, .. }));
    assert_eq!(overdue("2026-11-24T10:09:50Z"), StepOutcome::Running, "it has its grace period");
}

#[test]
fn held_and_queued_jobs_say_so() {
    let held = job(1, true, json!([{"type": "Suspended", "status": "True"}]));
    assert!(matches!(outcome(&held, &[]), StepOutcome::Waiting { reason: Reason::Suspended, .. }));
    let mut queued = held;
    queued.metadata.labels = Some([("kueue.x-k8s.io/queue-name".to_owned(), "research".to_owned())].into());
    assert!(
        matches!(outcome(&queued, &[]), StepOutcome::Waiting { reason: Reason::Queued, message } if message.contains("queue research"))
    );
}

#[test]
fn only_ends_of_its_own_count_as_interruptions() {
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
fn a_job_that_lacks_pods_has_a_moment_to_make_them() {
    let lack = |job: &Job, pods: &[Arc<Pod>], now: &str| {
        missing_pods(job, pods, &at(now)).map(|MissingPods { missing, wanted, .. }| (missing, wanted))
    };
    assert_eq!(lack(&open(3), &[], NOW), Some((3, 3)));
    assert_eq!(lack(&open(3), &[], "2026-11-24T10:00:05Z"), None);
    assert_eq!(lack(&open(3), &[running(0), ended(1, 1, "")], NOW), Some((2, 3)), "one that ended is none");
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
