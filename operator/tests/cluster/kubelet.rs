//! Plays the kubelet: pods of a namespace run, and end as a script says.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stic_contract::{StepName, StepResult};
use tokio::task::JoinHandle;

/// How a pod goes on.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Ends well and reports what a trainer would.
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

pub(crate) struct Kubelet {
    started: Arc<Mutex<BTreeMap<StepName, usize>>>,
    plays: JoinHandle<()>,
}

impl Kubelet {
    pub(crate) fn start(client: Client, namespace: &str, address: String, script: impl Script) -> Self {
        let api: Api<Pod> = Api::namespaced(client, namespace);
        let started = Arc::<Mutex<BTreeMap<StepName, usize>>>::default();
        let counts = started.clone();
        let plays = tokio::spawn(async move {
            let mut seen: HashSet<String> = HashSet::new();
            let mut events =
                std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // A watch that breaks off is started again.
                let Ok(Event::InitApply(pod) | Event::Apply(pod)) = event else { continue };
                if pod.metadata.deletion_timestamp.is_some() || !seen.insert(pod.uid().unwrap_or_default()) {
                    continue;
                }
                let step = step(&pod);
                let count = {
                    let mut counts = counts.lock().expect("nobody panics here");
                    let count = counts.entry(step).or_default();
                    *count += 1;
                    *count
                };
                let act = script(step, count);
                if matches!(act, Act::Pend) {
                    continue;
                }
                let (api, address) = (api.clone(), address.clone());
                tokio::spawn(async move {
                    set(&api, &pod, "Running", json!({"running": {"startedAt": now()}}), Some(&address))
                        .await;
                    match act {
                        Act::Run | Act::Pend => {}
                        Act::Succeed => end(&api, &pod, 0, &made(&pod)).await,
                        Act::Exit(code, text) => end(&api, &pod, code, &said(step, text)).await,
                    }
                });
            }
        });
        Self { started, plays }
    }

    /// How many pods of each step there ever were.
    pub(crate) fn started(&self) -> BTreeMap<StepName, usize> {
        self.started.lock().expect("nobody panics here").clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.plays.abort();
    }
}

/// Ends a pod that runs.
pub(crate) async fn end(api: &Api<Pod>, pod: &Pod, code: i32, message: &str) {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({"terminated": {"exitCode": code, "message": message, "startedAt": now(), "finishedAt": now(),
        "reason": if code == 0 { "Completed" } else { "Error" }}});
    set(api, pod, phase, state, None).await;
}

/// What a trainer that is done leaves: on the claim of its run, where it has one of its own.
pub(crate) fn made(pod: &Pod) -> String {
    let mut result = crate::common::result(step(pod));
    let own = format!("{}-output", label(pod, "stic.dev/run"));
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if volumes
        .any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == own))
    {
        for artifact in &mut result.artifacts {
            artifact.location.volume.clone_from(&own);
        }
    }
    result.to_termination_message()
}

/// What a trainer that fails leaves.
pub(crate) fn said(step: StepName, text: &str) -> String {
    StepResult { message: Some(text.into()), ..StepResult::new(step) }.to_termination_message()
}

pub(crate) fn label(pod: &Pod, key: &str) -> String {
    pod.labels().get(key).cloned().unwrap_or_default()
}

pub(crate) fn index(pod: &Pod) -> u32 {
    label(pod, "batch.kubernetes.io/job-completion-index").parse().unwrap_or_default()
}

/// Whether a pod runs and may go on.
pub(crate) fn runs(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
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
    let name = pod.name_any();
    for _ in 0..600 {
        match api.patch_status(&name, &PatchParams::default(), &status).await {
            Ok(_) => return,
            // It may be gone by now.
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            // An API server that is away for a while is part of some tests.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().round(k8s_openapi::jiff::Unit::Second).expect("a time").to_string()
}
