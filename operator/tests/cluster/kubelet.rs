//! Plays the kubelet: pods of a namespace run, and end as a script says.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stic_contract::{StepName, StepResult};
use tokio::task::JoinHandle;

/// How a pod goes on.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Ends well and reports what `common::result` does.
    Succeed,
    /// Ends with a code and a message.
    Exit(i32, &'static str),
    /// Runs on.
    Run,
    /// Is not started.
    Pend,
}

/// What a pod does: of a step, the n-th of it in this namespace from 1.
pub(crate) trait Script: Fn(StepName, usize) -> Act + Send + 'static {}
impl<T: Fn(StepName, usize) -> Act + Send + 'static> Script for T {}

pub(crate) struct Kubelet(JoinHandle<()>);

impl Kubelet {
    pub(crate) fn start(client: Client, namespace: &str, address: String, script: impl Script) -> Self {
        let api: Api<Pod> = Api::namespaced(client, namespace);
        Self(tokio::spawn(async move {
            let mut seen: HashSet<String> = HashSet::new();
            let mut counts = std::collections::HashMap::<StepName, usize>::new();
            loop {
                // A cluster that ends under a test fails the test elsewhere.
                let pods = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                for pod in pods {
                    let uid = pod.uid().unwrap_or_default();
                    if pod.metadata.deletion_timestamp.is_some() || !seen.insert(uid) {
                        continue;
                    }
                    let step = step(&pod);
                    let count = counts.entry(step).or_default();
                    *count += 1;
                    let act = script(step, *count);
                    if matches!(act, Act::Pend) {
                        continue;
                    }
                    set(&api, &pod, "Running", json!({"running": {"startedAt": now()}}), Some(&address))
                        .await;
                    match act {
                        Act::Run | Act::Pend => {}
                        Act::Succeed => end(&api, &pod, 0, &message(step)).await,
                        Act::Exit(code, text) => {
                            let result = StepResult { message: Some(text.into()), ..StepResult::new(step) };
                            end(&api, &pod, code, &result.to_termination_message()).await;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends a pod that runs.
pub(crate) async fn end(api: &Api<Pod>, pod: &Pod, code: i32, message: &str) {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({"terminated": {"exitCode": code, "message": message, "startedAt": now(), "finishedAt": now(),
        "reason": if code == 0 { "Completed" } else { "Error" }}});
    set(api, pod, phase, state, None).await;
}

pub(crate) fn message(step: StepName) -> String {
    crate::common::result(step).to_termination_message()
}

pub(crate) fn step(pod: &Pod) -> StepName {
    match pod.labels().get("stic.dev/step").map(String::as_str) {
        Some("prepare") => StepName::Prepare,
        Some("generate") => StepName::Generate,
        Some("describe") => StepName::Describe,
        Some("train") => StepName::Train,
        other => panic!("{other:?} is no step"),
    }
}

async fn set(api: &Api<Pod>, pod: &Pod, phase: &str, state: serde_json::Value, address: Option<&str>) {
    let mut status = json!({"phase": phase, "containerStatuses": [{
        "name": "trainer", "image": "trainer", "imageID": "trainer", "ready": address.is_some(), "restartCount": 0,
        "state": state,
    }]});
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    let status = Patch::Merge(json!({"status": status}));
    // It may be gone by now.
    let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &status).await;
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().round(k8s_openapi::jiff::Unit::Second).expect("a time").to_string()
}
