//! Somebody else writes to the same objects, or has taken the name of an object.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::{RunIdentity, RunKind, StepName};
use stic_crds::ConditionType;
use stic_crds::StageOneRun;
use stic_operator::build::names::{self, LaunchId};

use crate::invariants::StatusRecorder;
use crate::kubelet::PodAction;
use crate::operator::Operator;
use crate::runs::{phase, text};
use crate::test_env::TestEnv;

/// A condition that another controller writes.
fn foreign_condition(n: u32) -> Value {
    json!({
        "apiVersion": "stic.dev/v1alpha1",
        "kind": "StageOneRun",
        "metadata": {"name": "one"},
        "status": {"conditions": [{
            "type": "Budgeted", "status": "True", "reason": "ProxiedRequest", "message": format!("look {n}"),
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_others_write_to_all_the_time_succeeds() {
    let env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let operator = Operator::start(&env.setup);
    let recorder = StatusRecorder::start(&env).await;
    env.one("one", "").await;
    let api: Api<StageOneRun> = env.api();
    let writer = tokio::spawn(async move {
        // More often than the window in which the operator coalesces changes.
        for n in 0_u32.. {
            let labels = Patch::Merge(json!({"metadata": {"labels": {"changed": n.to_string()}}}));
            api.patch("one", &PatchParams::default(), &labels).await.expect("a label may change");
            if n % 5 == 0 {
                let spec = Patch::Merge(json!({"spec": {"backoff": {"limit": 3 + n % 4}}}));
                api.patch("one", &PatchParams::default(), &spec).await.expect("the budget may change");
                let status = Patch::Apply(foreign_condition(n));
                let parameters = PatchParams::apply("budgets");
                let _ = api.patch_status("one", &parameters, &status).await;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    });
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    writer.abort();
    recorder.check().await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(env.pods_started(), BTreeMap::from(once));
    assert_eq!(env.jobs().await.len(), 3);
    let conflicts = ["write=\"patch-status\"", "result=\"conflict\""];
    let conflicts = operator.metric("stic_api_writes_total", &conflicts).await.expect("it runs");
    assert!(conflicts > 0, "there was no conflict");
    let kept = env.status_of("one").await;
    assert!(
        kept.conditions.iter().any(|condition| condition.type_ == "Budgeted"),
        "the condition of another controller is kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_never_stops_changing_is_still_reconciled() {
    let env = TestEnv::new(|_, _| PodAction::Run).await;
    env.one("one", "").await;
    let mut changes = tokio::task::JoinSet::new();
    for who in ["a", "b", "c", "d"] {
        let api: Api<StageOneRun> = env.api();
        // More often than the window in which the operator coalesces changes.
        changes.spawn(async move {
            for n in 0_u32.. {
                let labels = Patch::Merge(json!({"metadata": {"labels": {who: n.to_string()}}}));
                api.patch("one", &PatchParams::default(), &labels).await.expect("a label may change");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let operator = Operator::start(&env.setup);
    let reconciled = async || operator.metric("stic_reconciles_total", &[]).await;
    env.until_true("reconciled", async || reconciled().await.is_some_and(|count| count >= 10)).await;
    changes.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_foreign_condition_does_not_cause_a_write() {
    let env = TestEnv::new(|_, _| PodAction::Run).await;
    let operator = Operator::start(&env.setup);
    env.one("one", "").await;
    env.pod("one", StepName::Prepare, 0).await;
    env.until_one("one", "running", |status| {
        text(status, ConditionType::Succeeded).contains("step prepare is running")
    })
    .await;
    let reconciled = async || operator.metric("stic_reconciles_total", &[]).await.expect("it runs");
    let status_writes =
        async || operator.metric("stic_api_writes_total", &["patch-status"]).await.expect("it runs");
    let reconciled_again = async || {
        let until = reconciled().await + 4;
        env.until_true("reconciled again", async || reconciled().await >= until).await;
    };
    // Wait until the start of the pod has been reported.
    let is_settled = async || {
        let before = status_writes().await;
        reconciled_again().await;
        status_writes().await == before
    };
    env.until_true("settled", is_settled).await;
    let api: Api<StageOneRun> = env.api();
    let patch = Patch::Apply(foreign_condition(0));
    let before = status_writes().await;
    api.patch_status("one", &PatchParams::apply("budgets"), &patch).await.expect("the API server takes it");
    reconciled_again().await;
    assert_eq!(status_writes().await, before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_taken_name_is_reported_and_freeing_it_lets_the_run_continue() {
    // On the heap: the three together are too large for the stack of a test.
    tokio::join!(
        Box::pin(taken::<ConfigMap>("ConfigMap", false, json!({}))),
        Box::pin(taken::<Job>(
            "Job",
            false,
            json!({"spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "other", "image": "other"}]}}}}),
        )),
        Box::pin(taken::<PersistentVolumeClaim>(
            "PersistentVolumeClaim",
            true,
            json!({"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )),
    );
}

async fn taken<K>(kind: &str, claims: bool, mut object: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let spec = crate::common::STAGE_ONE;
    env.one_of("one", &if claims { crate::runs::with_claim(spec) } else { spec.to_owned() }).await;
    let one = env.api::<StageOneRun>().get("one").await.expect("it exists");
    let run = RunIdentity {
        kind: RunKind::StageOneRun,
        namespace: env.namespace.clone(),
        name: "one".into(),
        uid: one.uid().expect("it has one"),
        rerun: 0,
    };
    let name = if claims {
        names::output_claim(&run)
    } else {
        names::launch(&run, LaunchId { step: StepName::Prepare, number: 1 })
    };
    // It has the label of the run, but no owner reference.
    object["metadata"] = json!({"name": name, "labels": {"stic.dev/run-uid": run.uid}});
    let api: Api<K> = env.api();
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("it is created");
    env.start();
    let status = env.until_one("one", "reported", |status| phase(status) == "NameTaken").await;
    let message = &status.condition(ConditionType::Succeeded).expect("it is there").message;
    assert!(
        message.contains(&format!("{kind} {name} already exists")) && message.contains("Delete or rename it"),
        "{message}"
    );
    let theirs = api.get(&name).await.expect("it stays");
    assert!(theirs.meta().owner_references.is_none(), "the object of somebody else is left alone");
    api.delete(&name, &DeleteParams::background()).await.expect("it is deleted");
    let gone =
        async || api.get_opt(&name).await.is_ok_and(|now| now.is_none_or(|now| now.uid() != theirs.uid()));
    if claims {
        // No pod mounts it, but removing the protection finalizer takes a moment.
        env.until_true("gone", gone).await;
    }
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(env.pods_started(), BTreeMap::from(once));
}
