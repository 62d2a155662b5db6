//! Every status that a run ever had, and what must be true of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{World, until};

const CONDITIONS: [&str; 5] = ["Succeeded", "InputsReady", "Suspended", "Reconciling", "Stalled"];

/// The versions of runs, by UID.
type Versions = HashMap<String, Vec<Value>>;

/// Watches the runs of a namespace from its beginning.
pub(crate) struct Recorder {
    runs: Vec<Api<DynamicObject>>,
    versions: Arc<Mutex<Versions>>,
    watches: Vec<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) async fn start(world: &World) -> Self {
        let versions: Arc<Mutex<Versions>> = Arc::default();
        let (mut watches, mut runs) = (Vec::new(), Vec::new());
        for kind in ["StageOneRun", "StageTwoRun"] {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("stic.dev", "v1alpha1", kind));
            let api: Api<DynamicObject> =
                Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
            runs.push(api.clone());
            let list = api.list(&ListParams::default()).await.expect("runs");
            let mut version = list.metadata.resource_version.unwrap_or_default();
            let versions = versions.clone();
            let note = move |run: &DynamicObject| {
                let value = serde_json::to_value(run).expect("JSON");
                let mut versions = versions.lock().expect("nobody panicked");
                let all: &mut Vec<Value> = versions.entry(run.uid().unwrap_or_default()).or_default();
                if all.last() != Some(&value) {
                    all.push(value);
                }
            };
            watches.push(tokio::spawn(async move {
                loop {
                    if let Ok(events) = api.watch(&WatchParams::default(), &version).await {
                        let mut events = events.boxed();
                        while let Ok(Some(event)) = events.try_next().await {
                            match event {
                                WatchEvent::Added(run)
                                | WatchEvent::Modified(run)
                                | WatchEvent::Deleted(run) => {
                                    version = run.resource_version().unwrap_or(version);
                                    note(&run);
                                }
                                WatchEvent::Bookmark(_) => {}
                                WatchEvent::Error(_) => break,
                            }
                        }
                    }
                    // It ends after some minutes, and when another test changes the CRD.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if let Ok(list) = api.list(&ListParams::default()).await {
                        list.items.iter().for_each(&note);
                        version = list.metadata.resource_version.unwrap_or(version);
                    }
                }
            }));
        }
        Self { runs, versions, watches }
    }

    /// All versions of the run called `name` up to now, in order.
    pub(crate) async fn of(&self, name: &str) -> Vec<Value> {
        self.catch_up().await;
        let versions = self.versions.lock().expect("nobody panicked");
        versions.values().filter(|all| all[0]["metadata"]["name"] == name).flatten().cloned().collect()
    }

    /// Waits until the watches have brought what is.
    async fn catch_up(&self) {
        for api in &self.runs {
            for run in api.list(&ListParams::default()).await.expect("runs").items {
                let uid = run.uid().unwrap_or_default();
                until("recorded", async || {
                    let versions = self.versions.lock().expect("nobody panicked");
                    let mut all = versions.get(&uid).into_iter().flatten();
                    all.any(|seen| seen["metadata"]["resourceVersion"] == json!(run.resource_version()))
                        .then_some(())
                })
                .await;
            }
        }
    }

    pub(crate) async fn check(&self) {
        self.catch_up().await;
        let versions = self.versions.lock().expect("nobody panicked");
        assert!(!versions.is_empty(), "nothing was seen");
        for all in versions.values() {
            let mut before = None;
            for run in all {
                let lies = lies(before, run);
                assert!(lies.is_empty(), "{lies:#?}\nbefore: {before:#?}\nnow: {run:#?}");
                before = Some(run);
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// What a version of a run says that cannot be, by itself or after the one before.
pub(crate) fn lies(before: Option<&Value>, now: &Value) -> Vec<String> {
    let mut lies = of_itself(now);
    if let Some(before) = before {
        lies.extend(of_change(before, now));
    }
    lies
}

fn of_itself(run: &Value) -> Vec<String> {
    let status = &run["status"];
    let mut lies = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            lies.push(what.to_owned());
        }
    };
    let observed = status["observedGeneration"].as_i64().unwrap_or(-1);
    must(
        observed <= run["metadata"]["generation"].as_i64().unwrap_or_default(),
        "it observed a generation to come",
    );
    must(status["rerun"].as_u64() <= run["spec"]["rerun"].as_u64(), "it is of a rerun to come");
    if !looked_at(run) {
        must(observed == -1, "it observed a generation and says nothing of it");
        return lies;
    }
    let is = |kind: &str| condition(run, kind)["status"].as_str().unwrap_or("absent").to_owned();
    for condition in conditions(run) {
        must(
            condition["observedGeneration"] == status["observedGeneration"],
            "a condition is of another generation",
        );
        must(
            condition["message"].as_str().is_some_and(|text| !text.is_empty()),
            "a condition has no message",
        );
    }
    for kind in CONDITIONS {
        must(is(kind) != "absent", &format!("{kind} is absent"));
    }
    let over = is("Succeeded") != "Unknown";
    must(!(is("Stalled") == "True" && is("Reconciling") == "True"), "it is stalled and reconciling");
    must((is("Succeeded") == "False") == (is("Stalled") == "True"), "failed and stalled are the same");
    must(!(over && is("Reconciling") == "True"), "it is over and reconciling");
    must(over == status["completionTime"].is_string(), "a completion time goes with an end");
    must(
        status["display"]["phase"] == condition(run, "Succeeded")["reason"],
        "the phase is the reason of Succeeded",
    );
    let steps = status["steps"].as_array().cloned().unwrap_or_default();
    if is("Succeeded") == "True" {
        must(!steps.is_empty(), "it succeeded with no step");
        must(
            steps.iter().all(|step| step["state"] == "Succeeded" || step["state"] == "Reused"),
            "it succeeded, and a step did not",
        );
        let artifacts = status["artifacts"].as_array().cloned().unwrap_or_default();
        must(
            artifacts.iter().any(|artifact| artifact["kind"] == "Adapter"),
            "it succeeded and made no adapter",
        );
        must(is("InputsReady") == "True", "it succeeded and its inputs are not ready");
    }
    if over {
        must(
            steps.iter().all(|step| step["state"] != "Running" && step["state"] != "Suspended"),
            "it is over, and a step runs",
        );
    }
    if steps.iter().any(|step| step["state"] == "Failed") {
        must(is("Succeeded") == "False", "a step failed for good, and the run did not");
    }
    lies
}

fn of_change(before: &Value, now: &Value) -> Vec<String> {
    let (old, new) = (&before["status"], &now["status"]);
    let mut lies = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            lies.push(what.to_owned());
        }
    };
    must(
        new["observedGeneration"].as_i64() >= old["observedGeneration"].as_i64(),
        "observedGeneration went back",
    );
    must(new["rerun"].as_u64() >= old["rerun"].as_u64(), "rerun went back");
    if !looked_at(before) || old["rerun"] != new["rerun"] {
        return lies;
    }
    must(looked_at(now), "it forgot its conditions");
    for kind in CONDITIONS {
        let (old, new) = (condition(before, kind), condition(now, kind));
        if old["status"] == new["status"] {
            must(
                old["lastTransitionTime"] == new["lastTransitionTime"],
                "a time moved and the status did not",
            );
        }
    }
    for step in old["steps"].as_array().into_iter().flatten() {
        let later = new["steps"].as_array().into_iter().flatten().find(|later| later["name"] == step["name"]);
        let later = later.unwrap_or(&Value::Null);
        must(later["attempts"].as_u64() >= step["attempts"].as_u64(), "attempts were taken back");
        must(step["jobUID"].is_null() || !later["jobUID"].is_null(), "a step forgot its Job");
        if step["state"] == "Succeeded" || step["state"] == "Reused" {
            must(later["state"] == step["state"], "a step that was done is not any more");
            must(later["completionTime"] == step["completionTime"], "a step was done at another time");
        }
    }
    must(old["startTime"] == new["startTime"], "the run started at another time");
    if condition(before, "Succeeded")["status"] != "Unknown" {
        for part in ["steps", "artifacts", "completionTime", "inputs", "resolved", "display"] {
            must(old[part] == new[part], &format!("it was over, and {part} changed"));
        }
        for part in ["status", "reason", "message"] {
            let (old, new) = (condition(before, "Succeeded"), condition(now, "Succeeded"));
            must(old[part] == new[part], "it was over, and Succeeded changed");
        }
    }
    lies
}

/// The operator's conditions. Other controllers have some of their own.
fn conditions(run: &Value) -> impl Iterator<Item = &Value> {
    let all = run["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(|condition| CONDITIONS.iter().any(|kind| condition["type"] == *kind))
}

fn looked_at(run: &Value) -> bool {
    conditions(run).next().is_some()
}

/// The condition of a type.
pub(crate) fn condition(run: &Value, kind: &str) -> Value {
    let conditions = run["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}
