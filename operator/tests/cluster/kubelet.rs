//! Stands in for the kubelet: pods of a namespace run, and end as a script says.

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

/// What a pod does.
#[derive(Debug, Clone)]
pub(crate) enum PodAction {
    /// Succeeds with the result of a trainer.
    Succeed,
    /// Fails with an exit code and a message.
    Exit(i32, &'static str),
    /// Keeps running.
    Run,
    /// Stays pending.
    Pend,
}

/// Decides what the n-th pod of a step in the namespace does, counted from 1.
pub(crate) trait Script: Fn(StepName, usize) -> PodAction + Send + 'static {}
impl<T: Fn(StepName, usize) -> PodAction + Send + 'static> Script for T {}

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
            let mut started_pods: HashSet<String> = HashSet::new();
            let mut events =
                std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // The watcher restarts a watch that failed.
                let Ok(Event::InitApply(pod) | Event::Apply(pod)) = event else { continue };
                if pod.metadata.deletion_timestamp.is_some()
                    || !started_pods.insert(pod.uid().unwrap_or_default())
                {
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
                if matches!(act, PodAction::Pend) {
                    continue;
                }
                let (api, address) = (api.clone(), address.clone());
                tokio::spawn(async move {
                    set(&api, &pod, "Running", json!({"running": {"startedAt": now()}}), Some(&address))
                        .await;
                    match act {
                        PodAction::Run | PodAction::Pend => {}
                        PodAction::Succeed => drop(end_pod(&api, &pod, 0, &success_message(&pod)).await),
                        PodAction::Exit(code, text) => {
                            end_pod(&api, &pod, code, &failure_message(step, text)).await;
                        }
                    }
                });
            }
        });
        Self { started, plays }
    }

    /// How many pods of each step were ever started.
    pub(crate) fn started(&self) -> BTreeMap<StepName, usize> {
        self.started.lock().expect("nobody panics here").clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.plays.abort();
    }
}

/// Ends a running pod. Returns whether it still existed.
pub(crate) async fn end_pod(api: &Api<Pod>, pod: &Pod, code: i32, message: &str) -> bool {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({"terminated": {"exitCode": code, "message": message, "startedAt": now(), "finishedAt": now(),
        "reason": if code == 0 { "Completed" } else { "Error" }}});
    set(api, pod, phase, state, None).await
}

/// The termination message of a trainer that succeeded. Its artifacts are on the output claim of the run, if it has one.
pub(crate) fn success_message(pod: &Pod) -> String {
    let kind = label(pod, "stic.dev/run-kind").parse().expect("a kind of run");
    let mut result = crate::common::result_of(kind, step(pod));
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

/// The termination message of a trainer that failed.
pub(crate) fn failure_message(step: StepName, text: &str) -> String {
    StepResult { message: Some(text.into()), ..StepResult::new(step) }.to_termination_message()
}

/// Keeps these pods running, given as step and number of the attempt from 1, and lets all others succeed.
pub(crate) fn holding<const N: usize>(held: [(StepName, usize); N]) -> impl Script {
    move |step, count| if held.contains(&(step, count)) { PodAction::Run } else { PodAction::Succeed }
}

pub(crate) fn label(pod: &Pod, key: &str) -> String {
    pod.labels().get(key).cloned().unwrap_or_default()
}

pub(crate) fn index(pod: &Pod) -> u32 {
    label(pod, "batch.kubernetes.io/job-completion-index").parse().unwrap_or_default()
}

/// Whether a pod is running and is not being deleted.
pub(crate) fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

pub(crate) fn step(pod: &Pod) -> StepName {
    label(pod, "stic.dev/step").parse().expect("the label names a step")
}

async fn set(
    api: &Api<Pod>,
    pod: &Pod,
    phase: &str,
    state: serde_json::Value,
    address: Option<&str>,
) -> bool {
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
            Ok(_) => return true,
            // It may have been deleted in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => return false,
            // Some tests stop the API server for a while.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("the API server does not take the status of pod {name}");
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().round(k8s_openapi::jiff::Unit::Second).expect("a time").to_string()
}
