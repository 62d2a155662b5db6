//! Runs that another version of the operator wrote and that this version cannot read.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::invariants::condition;
use crate::kstatus::rules::{Kstatus, compute};
use crate::kubelet::PodAction;
use crate::node::from;
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{TestEnv, until};

/// Lets the API server store what only a newer operator can read: one more word of two enums.
async fn loosen(env: &TestEnv) {
    let api: Api<CustomResourceDefinition> = Api::all(env.client.clone());
    let mut crd = api.get("stageoneruns.stic.dev").await.expect("a CRD");
    let schema = crd.spec.versions[0].schema.as_mut().expect("a schema");
    let mut value = serde_json::to_value(&schema.open_api_v3_schema).expect("JSON");
    for path in
        ["/properties/spec/properties/profile", "/properties/status/properties/steps/items/properties/state"]
    {
        let words = value.pointer_mut(&format!("{path}/enum")).and_then(Value::as_array_mut).expect("a list");
        words.push(json!("Future"));
    }
    schema.open_api_v3_schema = Some(from(value));
    api.replace("stageoneruns.stic.dev", &PostParams::default(), &crd).await.expect("a CRD");
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_of_another_version_is_reported_keeps_its_status_and_blocks_no_other() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step) {
        ("moved", StepName::Train) => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("moved", "").await;
    env.pod("moved", StepName::Train, 0).await;
    env.until_one("moved", "trains", |status| phase(status) == "Training").await;
    loosen(&env).await;
    let kind = GroupVersionKind::gvk("stic.dev", "v1alpha1", "StageOneRun");
    let runs: Api<DynamicObject> =
        Api::namespaced_with(env.client.clone(), &env.namespace, &ApiResource::from_gvk(&kind));
    let spec: Value = serde_saphyr::from_str(crate::common::STAGE_ONE).expect("YAML");
    let mut newer = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": "newer"}, "spec": spec});
    newer["spec"]["profile"] = json!("Future");
    until("the schema in force", async || {
        runs.patch("newer", &PatchParams::apply("test"), &Patch::Apply(&newer)).await.ok()
    })
    .await;
    let reported = async |name: &str| {
        until(&format!("{name} reported"), async || {
            let run = serde_json::to_value(runs.get(name).await.expect("it exists")).expect("JSON");
            (condition(&run, "Stalled")["reason"] == "NotUnderstood").then_some(run)
        })
        .await
    };
    let run = reported("newer").await;
    let message = condition(&run, "Stalled")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("Future") && message.contains("install the version that wrote it"), "{message}");
    assert_eq!(
        condition(&run, "Succeeded")["status"],
        "Unknown",
        "it has not failed: a newer operator runs it"
    );
    assert_eq!(condition(&run, "Succeeded")["reason"], "NotUnderstood");
    assert_eq!(compute(&run), Kstatus::Failed);
    env.two("two", "newer").await;
    let reported_two = |status: &stic_crds::RunStatus| {
        text(status, ConditionType::Succeeded).contains("cannot read StageOneRun newer")
    };
    env.until_two("two", "reported", reported_two).await;

    // A run that is under way keeps its status.
    let before = runs.get("moved").await.expect("it exists");
    let set = async |state: &str| {
        let mut run = runs.get("moved").await.expect("it exists");
        run.data["status"]["steps"][0]["state"] = json!(state);
        runs.replace_status("moved", &PostParams::default(), &run).await
    };
    until("stored", async || set("Future").await.ok()).await;
    let run = reported("moved").await;
    for part in ["artifacts", "inputs", "resolved", "startTime"] {
        assert_eq!(run["status"][part], before.data["status"][part], "{part} is kept");
    }
    for part in ["jobUID", "attempts"] {
        assert_eq!(
            run["status"]["steps"][2][part], before.data["status"]["steps"][2][part],
            "{part} is kept"
        );
    }
    assert_eq!(condition(&run, "Succeeded")["status"], "Unknown");
    // Other runs continue meanwhile.
    env.one("other", "").await;
    env.until_one("other", "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(env.jobs_of("newer").await.len(), 0);
    until("stored", async || set("Succeeded").await.ok()).await;
    env.finish("moved", StepName::Train, 0, 0, "").await;
    let status = env.until_one("moved", "is done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    assert_eq!(status.conditions.len(), ConditionType::ALL.len(), "{:?}", status.conditions);
    assert_eq!(env.jobs_of("moved").await.len(), 3);
    let last = serde_json::to_value(runs.get("moved").await.expect("it exists")).expect("JSON");
    assert_eq!(compute(&last), Kstatus::Current);
    drop(pods_script);
}
