//! Runs that another version of the operator wrote and this one cannot read.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use stic_contract::StepName;

use crate::director::Director;
use crate::kstatus::rules::{Kstatus, compute};
use crate::kubelet::Act;
use crate::node::from;
use crate::record::condition;
use crate::runs::{phase, text};
use crate::world::{World, until};

/// Lets the API server store what only a newer operator knows: one word more of two lists.
async fn loosen(world: &World) {
    let api: Api<CustomResourceDefinition> = Api::all(world.client.clone());
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
#[ignore = "needs a cluster"]
async fn a_run_of_another_version_is_told_so_loses_nothing_and_holds_up_nobody() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step) {
        ("moved", StepName::Train) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("moved", "").await;
    world.pod("moved", StepName::Train, 0).await;
    world.until_one("moved", "trains", |status| phase(status) == "Training").await;
    loosen(&world).await;
    let kind = GroupVersionKind::gvk("stic.dev", "v1alpha1", "StageOneRun");
    let runs: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &ApiResource::from_gvk(&kind));
    let spec: Value = serde_saphyr::from_str(crate::common::STAGE_ONE).expect("YAML");
    let mut newer = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": "newer"}, "spec": spec});
    newer["spec"]["profile"] = json!("Future");
    until("the schema in force", async || {
        runs.patch("newer", &PatchParams::apply("test"), &Patch::Apply(&newer)).await.ok()
    })
    .await;
    let told = async |name: &str| {
        until(&format!("{name} told"), async || {
            let run = serde_json::to_value(runs.get(name).await.expect("it exists")).expect("JSON");
            (condition(&run, "Stalled")["reason"] == "NotUnderstood").then_some(run)
        })
        .await
    };
    let run = told("newer").await;
    let said = condition(&run, "Stalled")["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        said.contains("Future") && said.contains("install the version of the operator that wrote it"),
        "{said}"
    );
    assert_eq!(
        condition(&run, "Succeeded")["status"],
        "Unknown",
        "it has not failed: a newer operator runs it"
    );
    assert_eq!(condition(&run, "Succeeded")["reason"], "NotUnderstood");
    assert_eq!(compute(&run), Kstatus::Failed);
    world.two("two", "newer").await;
    let told_two =
        |status: &stic_crds::RunStatus| text(status, "Succeeded").contains("cannot read StageOneRun newer");
    world.until_two("two", "told", told_two).await;

    // One under way loses nothing of what its status holds.
    let before = runs.get("moved").await.expect("it exists");
    let set = async |state: &str| {
        let mut run = runs.get("moved").await.expect("it exists");
        run.data["status"]["steps"][0]["state"] = json!(state);
        runs.replace_status("moved", &PostParams::default(), &run).await
    };
    until("stored", async || set("Future").await.ok()).await;
    let run = told("moved").await;
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
    // The rest goes on meanwhile.
    world.one("other", "").await;
    world.until_one("other", "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs_of("newer").await.len(), 0);
    until("stored", async || set("Succeeded").await.ok()).await;
    world.finish("moved", StepName::Train, 0, 0, "").await;
    let status = world.until_one("moved", "is done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
    assert_eq!(status.conditions.len(), 5, "{:?}", status.conditions);
    assert_eq!(world.jobs_of("moved").await.len(), 3);
    let last = serde_json::to_value(runs.get("moved").await.expect("it exists")).expect("JSON");
    assert_eq!(compute(&last), Kstatus::Current);
    drop(director);
}
