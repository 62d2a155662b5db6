//! Plays the kubelet of a node: binds pods of a namespace to it, runs them, and serves their logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
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
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const TICK: Duration = Duration::from_millis(50);

#[derive(Clone, Default)]
pub(crate) struct Kubelet(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Steps whose pods run on.
    held: BTreeSet<&'static str>,
    /// By pod: what it said, with times; and whether it has ended.
    logs: BTreeMap<String, (Vec<String>, bool)>,
    /// Pods whose log was cut off once, and pods that were heard to the point of now.
    cut: BTreeSet<String>,
    heard: BTreeSet<String>,
}

impl Kubelet {
    pub(crate) async fn start(client: Client, namespace: &str, folder: &Path) -> Self {
        let kubelet = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let node = format!("node-{namespace}");
        register(&client, &node, port).await;
        tokio::spawn(serve(listener, acceptor(folder), kubelet.clone()));
        tokio::spawn(run(Api::namespaced(client, namespace), node, kubelet.clone()));
        kubelet
    }

    /// Pods of `step` run on until it is released.
    pub(crate) fn hold(&self, step: StepName) {
        self.state().held.insert(step.as_str());
    }

    pub(crate) fn release(&self, step: StepName) {
        self.state().held.remove(step.as_str());
    }

    /// Waits until `pods` pods are followed, over a connection that was cut off once.
    pub(crate) async fn until_heard(&self, pods: usize) {
        for _ in 0..6000 {
            if self.state().heard.len() >= pods {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        panic!("nobody listens");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After it comes what it said a little earlier: stdout and stderr are written down by one each.
    fn say(&self, pod: &str, text: &str) {
        let now = Timestamp::now();
        let before = now - SignedDuration::from_millis(1);
        let lines = [format!("{now} {text}"), format!("{before} {text} and says so")];
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
        "conditions": [{"type": "Ready", "status": "True", "reason": "Played", "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
    }});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("its status");
}

async fn run(api: Api<Pod>, node: String, kubelet: Kubelet) {
    let mut running: BTreeMap<String, Pod> = BTreeMap::new();
    loop {
        // A cluster that ends under a test fails the test elsewhere.
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
                    kubelet.say(&name, &format!("{} begins", what(&pod)));
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
            kubelet.say(&name, &format!("{} ends", what(&pod)));
            let result = crate::common::result(step(&pod)).to_termination_message();
            end(&api, &kubelet, &name, 0, &result).await;
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn end(api: &Api<Pod>, kubelet: &Kubelet, name: &str, code: i32, message: &str) {
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
    // It may be gone by now.
    let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
}

fn step(pod: &Pod) -> StepName {
    let label = pod.labels().get("stic.dev/step").cloned();
    serde_json::from_value(json!(label)).expect("a step")
}

fn what(pod: &Pod) -> String {
    let index = pod.labels().get("batch.kubernetes.io/job-completion-index").map_or("0", String::as_str);
    format!("{} {index}", step(pod))
}

fn now() -> String {
    Timestamp::now().round(k8s_openapi::jiff::Unit::Second).expect("a time").to_string()
}

// The API server of a test does not check who a kubelet is.
fn acceptor(folder: &Path) -> TlsAcceptor {
    let (key, certificate) = (folder.join("kubelet.key"), folder.join("kubelet.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=kubelet", "-days", "2", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(&certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a server");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, kubelet: Kubelet) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, kubelet) = (acceptor.clone(), kubelet.clone());
        tokio::spawn(async move {
            // Who hangs up in between wanted no more.
            let _ = answer(stream, acceptor, kubelet).await;
        });
    }
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER?follow=true&timestamps=true`
async fn answer(stream: TcpStream, acceptor: TlsAcceptor, kubelet: Kubelet) -> std::io::Result<()> {
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
        let (lines, over) = {
            let state = kubelet.state();
            let (lines, over) = state.logs.get(&pod).cloned().unwrap_or_default();
            (lines.get(sent..).unwrap_or_default().to_vec(), over)
        };
        for line in &lines {
            stream.write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()).await?;
        }
        stream.flush().await?;
        sent += lines.len();
        let cut = follow && sent > 0 && kubelet.state().cut.insert(pod.clone());
        if !follow || over || cut {
            stream.write_all(b"0\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        if sent > 0 {
            kubelet.state().heard.insert(pod.clone());
        }
        tokio::time::sleep(TICK).await;
    }
}
