//! A node whose kubelet is played, and that takes only pods that ask for it; and volumes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as Object, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{World, until};

const ALONE: &str = "test.stic.dev/alone";

pub(crate) struct Node {
    pub name: String,
    api: Api<Object>,
    pods: Api<Pod>,
    reports: JoinHandle<()>,
}

impl Node {
    /// A node whose kubelet reports until it dies.
    pub(crate) async fn new(world: &World) -> Self {
        let name = format!("node-{}", world.namespace);
        let node: Object = from(json!({"metadata": {"name": name, "labels": {"test.stic.dev/node": name}},
            "spec": {"taints": [{"key": ALONE, "effect": "NoSchedule"}]}}));
        let api: Api<Object> = Api::all(world.client.clone());
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
        Self { name, api, pods: world.api(), reports }
    }

    /// Its kubelet reports no more.
    pub(crate) fn die(&self) {
        self.reports.abort();
    }

    /// The settings of a pod that may only run there, and is evicted from there at once.
    pub(crate) fn asked_for(&self) -> Value {
        json!({"nodeSelector": {"test.stic.dev/node": self.name},
            "tolerations": [{"key": ALONE, "operator": "Exists"}]})
    }

    /// Has a pod run there, ready.
    pub(crate) async fn take(&self, pod: &Pod) {
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
        self.die();
        self.api.delete(&self.name, &DeleteParams::default()).await.expect("a node");
    }
}

async fn report(api: &Api<Object>, name: &str) {
    let now = k8s_openapi::jiff::Timestamp::now();
    let status = json!({"status": {"capacity": {"cpu": "64", "memory": "64Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": now, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    // A cluster that ends under a test fails the test elsewhere.
    let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
}

/// Makes the volume that a claim waits for.
pub(crate) async fn bind(world: &World, claim: &str) {
    let name = world.volume_of(claim);
    let volume: PersistentVolume = from(json!({"metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "claimRef": {"namespace": world.namespace, "name": claim}}}));
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    volumes.create(&PostParams::default(), &volume).await.expect("a volume");
    // Not `Available`: that may be over, and the two bound, between two looks.
    until(&format!("{name} seen"), async || {
        (volumes.get(&name).await.expect("it exists").status?.phase? != "Pending").then_some(())
    })
    .await;
    // What binds them looks at a claim when it changes, and every 15 seconds.
    let seen = Patch::Merge(json!({"metadata": {"annotations": {"test/volume": name}}}));
    let claims = world.api::<PersistentVolumeClaim>();
    claims.patch(claim, &PatchParams::default(), &seen).await.expect("it exists");
    in_phase(world, claim, "Bound").await;
}

/// Takes the volume of a claim away.
pub(crate) async fn lose(world: &World, claim: &str) {
    let volume = &world.volume_of(claim);
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    volumes.delete(volume, &DeleteParams::default()).await.expect("a volume");
    let unprotected = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch(volume, &PatchParams::default(), &unprotected).await.expect("a volume");
    in_phase(world, claim, "Lost").await;
}

async fn in_phase(world: &World, claim: &str, phase: &str) {
    let claims = world.api::<PersistentVolumeClaim>();
    until(&format!("{claim} {phase}"), async || {
        let claim = claims.get(claim).await.expect("it exists");
        (claim.status?.phase? == phase).then_some(())
    })
    .await;
}

/// An object from its JSON.
pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the object's type")
}
