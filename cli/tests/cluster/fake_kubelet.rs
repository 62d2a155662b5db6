//! A fake kubelet of one node: binds the pods of a namespace to the node, pretends to run them, and serves their logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stic_contract::StepName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificate::certificate;

const TICK: Duration = Duration::from_millis(50);

#[derive(Clone, Default)]
pub(crate) struct FakeKubelet(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Steps whose pods do not end.
    held: BTreeSet<&'static str>,
    /// By pod: its log lines with timestamps, and whether it has ended.
    logs: BTreeMap<String, (Vec<String>, bool)>,
    /// Pods whose log was broken off once.
    broken_off: BTreeSet<String>,
    /// Pods whose log was sent completely, up to now, after it was broken off.
    followed: BTreeSet<String>,
}

impl FakeKubelet {
    pub(crate) async fn start(client: Client, namespace: &str, folder: &Path) -> Self {
        let kubelet = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let node = format!("node-{namespace}");
        register(&client, &node, port).await;
        // The API server of the tests does not verify the certificates of kubelets.
        tokio::spawn(serve(listener, certificate(folder, "kubelet").1, kubelet.clone()));
        tokio::spawn(run(Api::namespaced(client, namespace), node, kubelet.clone()));
        kubelet
    }

    /// Keeps pods of `step` running until it is released.
    pub(crate) fn hold(&self, step: StepName) {
        self.state().held.insert(step.as_str());
    }

    pub(crate) fn release(&self, step: StepName) {
        self.state().held.remove(step.as_str());
    }

    /// Waits until the logs of `pods` pods are followed, over connections that were broken off once.
    pub(crate) async fn until_followed(&self, pods: usize) {
        for _ in 0..6000 {
            if self.state().followed.len() >= pods {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        panic!("no log is followed");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, and one with an earlier timestamp after it, as the container runtime timestamps stdout and stderr
    /// independently.
    fn log(&self, pod: &str, text: &str) {
        let now = Timestamp::now();
        let before = now - SignedDuration::from_millis(1);
        let lines = [format!("{now} {text}"), format!("{before} {text} on stdout")];
        self.state().logs.entry(pod.to_owned()).or_default().0.extend(lines);
    }
}

async fn register(client: &Client, name: &str, port: u16) {
    let api: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a Node");
    api.create(&PostParams::default(), &node).await.expect("a node");
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
    }});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("its status");
}

async fn run(api: Api<Pod>, node: String, kubelet: FakeKubelet) {
    let mut running: BTreeMap<String, Pod> = BTreeMap::new();
    loop {
        // If the cluster goes away, the test itself fails.
        let pods = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        for pod in pods {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                if running.remove(&name).is_some() {
                    end(&api, &kubelet, &name, 75, "").await;
                    let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
                }
            } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
                let bound: kube::Result<Value> =
                    api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
                if bound.is_ok() {
                    set(&api, &name, "Running", json!({"running": {"startedAt": now()}})).await;
                    kubelet.log(&name, &format!("{} started", title(&pod)));
                    running.insert(name, pod);
                }
            }
        }
        let held = kubelet.state().held.clone();
        let ready = |pod: &Pod| !held.contains(step(pod).as_str());
        let ending: Vec<Pod> = running.values().filter(|pod| ready(pod)).cloned().collect();
        for pod in ending {
            let name = pod.name_any();
            running.remove(&name);
            kubelet.log(&name, &format!("{} ended", title(&pod)));
            let result = crate::common::result(step(&pod)).to_termination_message();
            end(&api, &kubelet, &name, 0, &result).await;
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn end(api: &Api<Pod>, kubelet: &FakeKubelet, name: &str, code: i32, message: &str) {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let reason = if code == 0 { "Completed" } else { "Error" };
    kubelet.state().logs.entry(name.to_owned()).or_default().1 = true;
    let ended = json!({"exitCode": code, "message": message, "reason": reason, "startedAt": now(), "finishedAt": now()});
    set(api, name, phase, json!({"terminated": ended})).await;
}

async fn set(api: &Api<Pod>, name: &str, phase: &str, state: Value) {
    let status = json!({"status": {"phase": phase, "containerStatuses": [{
        "name": "trainer", "image": "trainer", "imageID": "trainer", "ready": false, "restartCount": 0, "state": state,
    }]}});
    let patch = Patch::Merge(status);
    loop {
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => return,
            // It was deleted in between.
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(_) => tokio::time::sleep(TICK).await,
        }
    }
}

fn step(pod: &Pod) -> StepName {
    let label = pod.labels().get("stic.dev/step").cloned();
    serde_json::from_value(json!(label)).expect("a step")
}

fn title(pod: &Pod) -> String {
    let index = pod.labels().get("batch.kubernetes.io/job-completion-index").map_or("0", String::as_str);
    format!("{} {index}", step(pod))
}

fn now() -> String {
    Timestamp::now().round(k8s_openapi::jiff::Unit::Second).expect("a time").to_string()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, kubelet: FakeKubelet) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, kubelet) = (acceptor.clone(), kubelet.clone());
        tokio::spawn(async move {
            // An error means that the client has closed the connection.
            let _ = answer(stream, acceptor, kubelet).await;
        });
    }
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER?follow=true&timestamps=true`
async fn answer(stream: TcpStream, acceptor: TlsAcceptor, kubelet: FakeKubelet) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let byte = stream.read_u8().await?;
        request.push(byte);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let pod = path.split('/').nth(3).unwrap_or_default().to_owned();
    let follow = path.contains("follow=true");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut sent = 0;
    loop {
        let (lines, ended) = {
            let state = kubelet.state();
            let (lines, ended) = state.logs.get(&pod).cloned().unwrap_or_default();
            (lines.get(sent..).unwrap_or_default().to_vec(), ended)
        };
        for line in &lines {
            stream.write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()).await?;
        }
        stream.flush().await?;
        sent += lines.len();
        let break_off = follow && sent > 0 && kubelet.state().broken_off.insert(pod.clone());
        if !follow || ended || break_off {
            stream.write_all(b"0\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        if sent > 0 {
            kubelet.state().followed.insert(pod.clone());
        }
        tokio::time::sleep(TICK).await;
    }
}
