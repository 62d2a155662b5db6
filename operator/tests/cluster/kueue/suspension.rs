//! `spec.suspend`, administrators who deactivate Workloads, and an operator that is away or dies meanwhile.

use kube::ResourceExt;
use serde_json::json;
use std::process::Command;
use stic_contract::StepName::{Generate, Prepare, Train};
use stic_crds::ConditionType;

use crate::kubelet::{PodAction, holding};
use crate::operator::{Operator, Setup};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{PATIENCE, TestEnv};
use crate::workloads::active;

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_suspended_run_is_not_admitted_and_gives_its_quota_back() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods = ScriptedPods::start(&env, |pod| match (pod.run.as_str(), pod.step, pod.nth) {
        ("one", Generate, 1) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 0).await;
    env.start();
    // While it is queued:
    env.one_in("gpu", "one").await;
    env.queued("one", &["maximum capacity"]).await;
    env.suspend("one").await;
    assert!(!active(&env.workload("one").await));
    env.set_quota("gpu", 1).await;
    env.one_in("gpu", "two").await;
    env.succeeds("two").await;
    assert!(env.pods_of("one").await.is_empty());
    env.resume("one").await;
    // While it is admitted:
    env.pod("one", Generate, 0).await;
    env.suspend("one").await;
    env.one_in("gpu", "three").await;
    env.succeeds("three").await;
    env.resume("one").await;
    env.succeeds("one").await;
    pods.check().await;
    env.expect_calm(&[(Prepare, 3), (Generate, 4), (Train, 3)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_suspended_run_that_gets_a_queue_waits_for_both() {
    let mut env = TestEnv::new(holding([(Prepare, 1)])).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one("one", "").await;
    env.pod("one", Prepare, 0).await;
    env.suspend("one").await;
    env.move_to("gpu", "one").await;
    let before = env.reconciliations().await;
    env.edit("one", json!({"metadata": {"annotations": {"team": "vision"}}})).await;
    env.until_true("reconciled again", async || env.reconciliations().await > before).await;
    assert_eq!(phase(&env.status_of("one").await), "Suspended");
    let workloads = env.workloads().await;
    assert!(workloads.is_empty(), "Kueue would start it");
    env.set_quota("gpu", 0).await;
    env.resume("one").await;
    env.queued("one", &["queue gpu"]).await;
    env.set_quota("gpu", 1).await;
    env.succeeds("one").await;
    env.expect_calm(&[(Prepare, 2), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn only_an_administrator_undoes_a_deactivation() {
    let mut env = TestEnv::new(holding([(Generate, 1)])).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.pod("one", Generate, 0).await;
    let workload = env.workload("one").await.name_any();
    env.change("Workload", &workload, json!({"spec": {"active": false}})).await;
    env.queued("one", &[&format!("Workload {workload} was deactivated")]).await;
    env.wait_for_pods_to_end("one").await;
    // The owner suspends and resumes.
    env.suspend("one").await;
    env.resume("one").await;
    let status = env.queued("one", &[&format!("Workload {workload} was deactivated")]).await;
    assert!(!active(&env.workload("one").await));
    // The administrator pastes the command of the message.
    let message = text(&status, ConditionType::Succeeded);
    let (_, command) = message.split_once("run: ").expect("a command");
    let done = Command::new("sh").args(["-c", command]).status().expect("sh");
    assert!(done.success(), "{command}");
    env.succeeds("one").await;
    env.expect_calm(&[(Prepare, 1), (Generate, 2), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn an_operator_that_was_away_finds_what_kueue_did() {
    let mut env = TestEnv::new(holding([(Prepare, 1), (Generate, 1)])).await;
    env.queue("gpu", 0).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["maximum capacity"]).await;
    // Admitted while it is away:
    env.kill();
    env.set_quota("gpu", 1).await;
    env.pod("one", Prepare, 0).await;
    env.start();
    env.until_one("one", "prepares", |status| phase(status) == "Preparing").await;
    env.finish("one", Prepare, 0, 0, "").await;
    env.pod("one", Generate, 0).await;
    // Evicted while it is away:
    env.kill();
    let stop = |policy: &str| json!({"spec": {"stopPolicy": policy}});
    env.change("LocalQueue", "gpu", stop("HoldAndDrain")).await;
    env.wait_for_pods_to_end("one").await;
    env.start();
    env.queued("one", &["was evicted (LocalQueueStopped"]).await;
    env.change("LocalQueue", "gpu", stop("None")).await;
    env.succeeds("one").await;
    assert_eq!(env.jobs_of("one").await.len(), 3);
    env.expect_calm(&[(Prepare, 1), (Generate, 2), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn an_operator_that_dies_between_writes_finishes_what_it_began() {
    let mut env = TestEnv::new(holding([(Prepare, 1), (Prepare, 2), (Prepare, 3), (Prepare, 4)])).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.pod("one", Prepare, 0).await;
    for failpoint in ["before:patch-workload", "after:patch-workload", "before:patch-status"] {
        for suspend in [true, false] {
            env.kill();
            env.edit("one", json!({"spec": {"suspend": suspend}})).await;
            let setup = Setup { failpoint: Some(failpoint.into()), ..env.setup.clone() };
            Operator::start(&setup).wait_for_exit(PATIENCE).await;
            env.start();
            if suspend {
                env.until_one("one", "suspended", |status| phase(status) == "Suspended").await;
                env.wait_for_pods_to_end("one").await;
                assert!(!active(&env.workload("one").await));
            } else {
                env.pod("one", Prepare, 0).await;
                env.until_one("one", "resumed", |status| phase(status) == "Preparing").await;
                assert!(active(&env.workload("one").await));
            }
        }
    }
    env.finish("one", Prepare, 0, 0, "").await;
    env.succeeds("one").await;
    env.expect_calm(&[(Prepare, 4), (Generate, 1), (Train, 1)]).await;
}
