//! A node with a simulated kubelet, which runs only pods that select it; and volumes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as Object, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::test_env::{TestEnv, until};

const ALONE: &str = "test.stic.dev/alone";

pub(crate) struct Node {
    pub name: String,
    api: Api<Object>,
    pods: Api<Pod>,
    reports: JoinHandle<()>,
}

impl Node {
    /// A node whose kubelet reports until it is stopped.
    pub(crate) async fn new(env: &TestEnv) -> Self {
        let name = format!("node-{}", env.namespace);
        let node: Object = from(json!({"metadata": {"name": name, "labels": {"test.stic.dev/node": name}},
            "spec": {"taints": [{"key": ALONE, "effect": "NoSchedule"}]}}));
        let api: Api<Object> = Api::all(env.client.clone());
        api.create(&PostParams::default(), &node).await.expect("a node");
        report(&api, &name).await;
        let reports = tokio::spawn({
            let (api, name) = (api.clone(), name.clone());
            async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(4)).await;
                    report(&api, &name).await;
                }
            }
        });
        Self { name, api, pods: env.api(), reports }
    }

    /// Stops the kubelet.
    pub(crate) fn stop(&self) {
        self.reports.abort();
    }

    /// The settings of a pod that may run only there, and is evicted immediately.
    pub(crate) fn pod_settings(&self) -> Value {
        json!({"nodeSelector": {"test.stic.dev/node": self.name},
            "tolerations": [{"key": ALONE, "operator": "Exists"}]})
    }

    /// Binds a pod to the node and makes it ready.
    pub(crate) async fn bind_pod(&self, pod: &Pod) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name_any()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.name}});
        let parameters = PostParams::default();
        let bound: Value = self
            .pods
            .create_subresource("binding", &pod.name_any(), &parameters, &binding)
            .await
            .expect("it is bound");
        assert_eq!(bound["status"], "Success");
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = Patch::Strategic(&ready);
        self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a pod");
    }

    pub(crate) async fn taint(&self, key: &str, value: &str, effect: &str) {
        let taint = json!({"spec": {"taints": [{"key": ALONE, "effect": "NoSchedule"},
            {"key": key, "value": value, "effect": effect}]}});
        let patch = Patch::Strategic(&taint);
        self.api.patch(&self.name, &PatchParams::default(), &patch).await.expect("a node");
    }

    pub(crate) async fn remove(self) {
        self.stop();
        self.api.delete(&self.name, &DeleteParams::default()).await.expect("a node");
    }
}

async fn report(api: &Api<Object>, name: &str) {
    let now = k8s_openapi::jiff::Timestamp::now();
    let status = json!({"status": {"capacity": {"cpu": "64", "memory": "64Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": now, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    // If the cluster ends during a test, the test fails elsewhere.
    let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
}

/// Creates the volume that a claim waits for.
pub(crate) async fn bind(env: &TestEnv, claim: &str) {
    let name = env.volume_of(claim);
    let volume: PersistentVolume = from(json!({"metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "claimRef": {"namespace": env.namespace, "name": claim}}}));
    let volumes: Api<PersistentVolume> = Api::all(env.client.clone());
    volumes.create(&PostParams::default(), &volume).await.expect("a volume");
    // Not `Available`, as the two may be bound before the next poll.
    until(&format!("{name} known"), async || {
        (volumes.get(&name).await.expect("it exists").status?.phase? != "Pending").then_some(())
    })
    .await;
    // The binder looks at a claim when it changes, and every 15 seconds.
    let annotation = Patch::Merge(json!({"metadata": {"annotations": {"test/volume": name}}}));
    let claims = env.api::<PersistentVolumeClaim>();
    claims.patch(claim, &PatchParams::default(), &annotation).await.expect("it exists");
    in_phase(env, claim, "Bound").await;
}

/// Deletes the volume of a claim.
pub(crate) async fn lose(env: &TestEnv, claim: &str) {
    let volume = &env.volume_of(claim);
    let volumes: Api<PersistentVolume> = Api::all(env.client.clone());
    volumes.delete(volume, &DeleteParams::default()).await.expect("a volume");
    let unprotected = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch(volume, &PatchParams::default(), &unprotected).await.expect("a volume");
    in_phase(env, claim, "Lost").await;
}

async fn in_phase(env: &TestEnv, claim: &str, phase: &str) {
    let claims = env.api::<PersistentVolumeClaim>();
    until(&format!("{claim} {phase}"), async || {
        let claim = claims.get(claim).await.expect("it exists");
        (claim.status?.phase? == phase).then_some(())
    })
    .await;
}

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the object's type")
}
