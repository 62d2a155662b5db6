//! Records every status of a run, and checks what must be true of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::Value;
use stic_crds::ConditionType;
use tokio::task::JoinHandle;

use crate::test_env::{TestEnv, until};

/// The versions of runs, by UID.
type Versions = HashMap<String, Vec<Value>>;

/// Resource versions are comparable numbers since Kubernetes 1.35.
fn number(version: &str) -> u128 {
    version.parse().expect("a number")
}

/// Watches the runs of a namespace from the start.
pub(crate) struct StatusRecorder {
    runs: Vec<Api<DynamicObject>>,
    versions: Arc<Mutex<Versions>>,
    watches: Vec<JoinHandle<()>>,
}

impl StatusRecorder {
    pub(crate) async fn start(env: &TestEnv) -> Self {
        let versions: Arc<Mutex<Versions>> = Arc::default();
        let (mut watches, mut runs) = (Vec::new(), Vec::new());
        for kind in ["StageOneRun", "StageTwoRun"] {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("stic.dev", "v1alpha1", kind));
            let api: Api<DynamicObject> = Api::namespaced_with(env.client.clone(), &env.namespace, &resource);
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
                    // A watch ends after some minutes, and when another test changes the CRD.
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

    /// Waits until the watches have delivered the current versions.
    async fn catch_up(&self) {
        for api in &self.runs {
            for run in api.list(&ListParams::default()).await.expect("runs").items {
                let uid = run.uid().unwrap_or_default();
                until("recorded", async || {
                    let versions = self.versions.lock().expect("nobody panicked");
                    // A watch that is begun anew skips what was overwritten in between.
                    let last = versions.get(&uid).and_then(|all| all.last())?;
                    let last = last["metadata"]["resourceVersion"].as_str().map(number);
                    (last >= run.resource_version().as_deref().map(number)).then_some(())
                })
                .await;
            }
        }
    }

    pub(crate) async fn check(&self) {
        self.catch_up().await;
        let versions = self.versions.lock().expect("nobody panicked");
        assert!(!versions.is_empty(), "no run was recorded");
        for all in versions.values() {
            let mut before = None;
            for run in all {
                let violations = violations(before, run);
                assert!(violations.is_empty(), "{violations:#?}\nbefore: {before:#?}\nnow: {run:#?}");
                before = Some(run);
            }
        }
    }
}

impl Drop for StatusRecorder {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// What is wrong with a version of a run, by itself or compared with the previous one.
pub(crate) fn violations(before: Option<&Value>, now: &Value) -> Vec<String> {
    let mut violations = within_one_version(now);
    if let Some(before) = before {
        violations.extend(between_versions(before, now));
    }
    violations
}

fn within_one_version(run: &Value) -> Vec<String> {
    let status = &run["status"];
    let mut violations = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            violations.push(what.to_owned());
        }
    };
    let observed = status["observedGeneration"].as_i64().unwrap_or(-1);
    must(
        observed <= run["metadata"]["generation"].as_i64().unwrap_or_default(),
        "it observed a future generation",
    );
    if !was_reconciled(run) {
        must(observed == -1, "it observed a generation and has no conditions");
        return violations;
    }
    if status["observedGeneration"] == run["metadata"]["generation"] {
        must(status["observedRerun"] == run["spec"]["rerun"], "it has not observed the rerun of its spec");
        must(status["rerun"].as_u64() >= run["spec"]["rerun"].as_u64(), "it has an earlier rerun");
    }
    let is = |kind: &str| condition(run, kind)["status"].as_str().unwrap_or("absent").to_owned();
    for condition in conditions(run) {
        must(
            condition["observedGeneration"] == status["observedGeneration"],
            "a condition has another generation",
        );
        must(
            condition["message"].as_str().is_some_and(|text| !text.is_empty()),
            "a condition has no message",
        );
    }
    for kind in condition_types() {
        must(is(kind) != "absent", &format!("{kind} is absent"));
    }
    let ended = is("Succeeded") != "Unknown";
    must(!(is("Stalled") == "True" && is("Reconciling") == "True"), "it is stalled and reconciling");
    must(
        (is("Succeeded") == "False") == (is("Stalled") == "True"),
        "it must be stalled exactly if it failed",
    );
    must(!(ended && is("Reconciling") == "True"), "it has ended and is reconciling");
    must(
        ended == status["completionTime"].is_string(),
        "it must have a completion time exactly if it has ended",
    );
    let (phase, reason) = (&status["display"]["phase"], &condition(run, "Succeeded")["reason"]);
    must(
        phase.as_str().zip(reason.as_str()).is_some_and(|(phase, reason)| phase.contains(reason)),
        "the phase does not name the reason of Succeeded",
    );
    let steps = status["steps"].as_array().cloned().unwrap_or_default();
    if is("Succeeded") == "True" {
        must(!steps.is_empty(), "it succeeded without steps");
        must(
            steps.iter().all(|step| step["state"] == "Succeeded" || step["state"] == "Reused"),
            "it succeeded, and a step did not",
        );
        let artifacts = status["artifacts"].as_array().cloned().unwrap_or_default();
        must(
            artifacts.iter().any(|artifact| artifact["kind"] == "Adapter"),
            "it succeeded without an adapter",
        );
        must(is("InputsReady") == "True", "it succeeded and its inputs are not ready");
    }
    if ended {
        must(
            steps.iter().all(|step| step["state"] != "Running" && step["state"] != "Suspended"),
            "it has ended, and a step is running",
        );
    }
    if steps.iter().any(|step| step["state"] == "Failed") {
        must(is("Succeeded") == "False", "a step failed for good, but not the run");
    }
    violations
}

fn between_versions(before: &Value, now: &Value) -> Vec<String> {
    let (old, new) = (&before["status"], &now["status"]);
    let mut violations = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            violations.push(what.to_owned());
        }
    };
    must(
        new["observedGeneration"].as_i64() >= old["observedGeneration"].as_i64(),
        "observedGeneration went back",
    );
    must(new["rerun"].as_u64() >= old["rerun"].as_u64(), "rerun went back");
    if !was_reconciled(before) || old["rerun"] != new["rerun"] {
        return violations;
    }
    must(was_reconciled(now), "it lost its conditions");
    for kind in condition_types() {
        let (old, new) = (condition(before, kind), condition(now, kind));
        if old["status"] == new["status"] {
            must(
                old["lastTransitionTime"] == new["lastTransitionTime"],
                "a transition time changed without its status",
            );
        }
    }
    for step in old["steps"].as_array().into_iter().flatten() {
        let later = new["steps"].as_array().into_iter().flatten().find(|later| later["name"] == step["name"]);
        let later = later.unwrap_or(&Value::Null);
        must(later["attempts"].as_u64() >= step["attempts"].as_u64(), "attempts decreased");
        must(step["jobUID"].is_null() || !later["jobUID"].is_null(), "a step lost its Job");
        if step["state"] == "Succeeded" || step["state"] == "Reused" {
            must(later["state"] == step["state"], "a complete step is no longer complete");
            must(later["completionTime"] == step["completionTime"], "the completion time of a step changed");
        }
    }
    must(old["startTime"] == new["startTime"], "the start time of the run changed");
    if condition(before, "Succeeded")["status"] != "Unknown" && old["retry"] == new["retry"] {
        for part in ["steps", "artifacts", "completionTime", "inputs", "resolved", "display"] {
            must(old[part] == new[part], &format!("it had ended, and {part} changed"));
        }
        for part in ["status", "reason", "message"] {
            let (old, new) = (condition(before, "Succeeded"), condition(now, "Succeeded"));
            must(old[part] == new[part], "it had ended, and Succeeded changed");
        }
    }
    violations
}

/// The conditions of the operator, without those of other controllers.
fn conditions(run: &Value) -> impl Iterator<Item = &Value> {
    let all = run["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(|condition| condition_types().any(|kind| condition["type"] == kind))
}

fn condition_types() -> impl Iterator<Item = &'static str> {
    ConditionType::ALL.iter().map(|kind| kind.as_str())
}

fn was_reconciled(run: &Value) -> bool {
    conditions(run).next().is_some()
}

/// The condition of a type.
pub(crate) fn condition(run: &Value, kind: &str) -> Value {
    let conditions = run["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}
