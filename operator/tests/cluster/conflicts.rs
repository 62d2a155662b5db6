//! Somebody else writes what the operator writes, or has what it wants to make.

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
use stic_crds::StageOneRun;
use stic_operator::build::{Attempt, names};

use crate::kubelet::Act;
use crate::operator::Operator;
use crate::record::Recorder;
use crate::runs::phase;
use crate::world::World;

/// Another controller's view of the run, in its own condition.
fn seen_by_another(n: u32) -> Value {
    json!({
        "apiVersion": "stic.dev/v1alpha1",
        "kind": "StageOneRun",
        "metadata": {"name": "one"},
        "status": {"conditions": [{
            "type": "Budgeted", "status": "True", "reason": "Seen", "message": format!("look {n}"),
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_run_that_others_write_all_the_time_ends_right() {
    let world = World::new(|_, _| Act::Succeed).await;
    let operator = Operator::start(&world.setup);
    let recorder = Recorder::start(&world).await;
    world.one("one", "").await;
    let api: Api<StageOneRun> = world.api();
    let meddles = tokio::spawn(async move {
        // More often than the operator waits for changes to settle.
        for n in 0_u32.. {
            let labels = Patch::Merge(json!({"metadata": {"labels": {"meddled": n.to_string()}}}));
            api.patch("one", &PatchParams::default(), &labels).await.expect("a label may change");
            if n % 5 == 0 {
                let spec = Patch::Merge(json!({"spec": {"backoff": {"limit": 3 + n % 4}}}));
                api.patch("one", &PatchParams::default(), &spec).await.expect("the budget may change");
                let status = Patch::Apply(seen_by_another(n));
                let parameters = PatchParams::apply("budgets");
                let _ = api.patch_status("one", &parameters, &status).await;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    });
    let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    meddles.abort();
    recorder.check().await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(world.pods_started(), BTreeMap::from(once));
    assert_eq!(world.jobs().await.len(), 3);
    let conflicts = ["write=\"patch-status\"", "result=\"conflict\""];
    let conflicts = operator.metric("stic_api_writes_total", &conflicts).await.expect("it runs");
    assert!(conflicts > 0, "nobody wrote in between");
    let kept = world.status_of("one").await;
    assert!(kept.condition("Budgeted").is_some(), "what others wrote is theirs");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_run_that_never_stops_changing_is_looked_at_all_the_same() {
    let world = World::new(|_, _| Act::Run).await;
    world.one("one", "").await;
    let mut changes = tokio::task::JoinSet::new();
    for who in ["a", "b", "c", "d"] {
        let api: Api<StageOneRun> = world.api();
        // Closer together than the operator waits for others.
        changes.spawn(async move {
            for n in 0_u32.. {
                let labels = Patch::Merge(json!({"metadata": {"labels": {who: n.to_string()}}}));
                api.patch("one", &PatchParams::default(), &labels).await.expect("a label may change");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let operator = Operator::start(&world.setup);
    let looks = async || operator.metric("stic_reconciles_total", &[]).await;
    world.until_true("looked at", async || looks().await.is_some_and(|looks| looks >= 10)).await;
    changes.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_condition_of_others_is_no_reason_to_write() {
    let world = World::new(|_, _| Act::Run).await;
    let operator = Operator::start(&world.setup);
    world.one("one", "").await;
    world.pod("one", StepName::Prepare, 0).await;
    world
        .until_one("one", "looked at", |status| phase(status) == "Preparing" && !status.steps.is_empty())
        .await;
    let reconciled = async || operator.metric("stic_reconciles_total", &[]).await.expect("it runs");
    let written =
        async || operator.metric("stic_api_writes_total", &["patch-status"]).await.expect("it runs");
    let looked_at_again = async || {
        let until = reconciled().await + 4;
        world.until_true("looked at again", async || reconciled().await >= until).await;
    };
    // What the pod's start leads to is written before.
    let at_rest = async || {
        let before = written().await;
        looked_at_again().await;
        written().await == before
    };
    world.until_true("at rest", at_rest).await;
    let api: Api<StageOneRun> = world.api();
    let patch = Patch::Apply(seen_by_another(0));
    let before = written().await;
    api.patch_status("one", &PatchParams::apply("budgets"), &patch).await.expect("the API server takes it");
    looked_at_again().await;
    assert_eq!(written().await, before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_name_that_is_taken_is_told_and_its_release_lets_the_run_go_on() {
    tokio::join!(
        taken::<ConfigMap>("ConfigMap", false, json!({})),
        taken::<Job>(
            "Job",
            false,
            json!({"spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "other", "image": "other"}]}}}}),
        ),
        taken::<PersistentVolumeClaim>(
            "PersistentVolumeClaim",
            true,
            json!({"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
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
    let mut world = World::new(|_, _| Act::Succeed).await;
    let spec = crate::common::STAGE_ONE;
    world.one_of("one", &if claims { crate::runs::with_claim(spec) } else { spec.to_owned() }).await;
    let one = world.api::<StageOneRun>().get("one").await.expect("it exists");
    let run = RunIdentity {
        kind: RunKind::StageOneRun,
        namespace: world.namespace.clone(),
        name: "one".into(),
        uid: one.uid().expect("it has one"),
        rerun: 0,
    };
    let name = if claims {
        names::output_claim(&run)
    } else {
        names::attempt(&run, Attempt { step: StepName::Prepare, number: 1 })
    };
    // It even looks like one of the run's: a label makes no owner.
    object["metadata"] = json!({"name": name, "labels": {"stic.dev/run-uid": run.uid}});
    let api: Api<K> = world.api();
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("it is created");
    world.start();
    let told = world.until_one("one", "told", |status| phase(status) == "NameTaken").await;
    let message = &told.condition("Succeeded").expect("it is there").message;
    assert!(
        message.contains(&format!("{kind} {name}")) && message.contains("delete or rename it"),
        "{message}"
    );
    let theirs = api.get(&name).await.expect("it stays");
    assert!(theirs.meta().owner_references.is_none(), "what is another's is left alone");
    api.delete(&name, &DeleteParams::background()).await.expect("it is deleted");
    let gone =
        async || api.get_opt(&name).await.is_ok_and(|now| now.is_none_or(|now| now.uid() != theirs.uid()));
    if claims {
        // Nothing mounts it, but the protection finalizer takes a moment.
        world.until_true("gone", gone).await;
    }
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(world.pods_started(), BTreeMap::from(once));
}
