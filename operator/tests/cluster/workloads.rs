//! Plays Kueue, as far as a Job sees it: a Workload a Job, which unsuspends the Job while it is active.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

const JOB_UID: &str = "kueue.x-k8s.io/job-uid";

pub(crate) struct Kueue {
    pub workloads: Api<DynamicObject>,
    plays: JoinHandle<()>,
}

impl Kueue {
    /// Admits whatever waits in a queue of the namespace, for as long as it lives.
    pub(crate) async fn start(client: Client, namespace: &str) -> Self {
        static CRD: OnceCell<()> = OnceCell::const_new();
        CRD.get_or_init(|| install(client.clone())).await;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta1", "Workload"));
        let workloads: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let jobs: Api<Job> = Api::namespaced(client, namespace);
        let plays = {
            let workloads = workloads.clone();
            tokio::spawn(async move {
                loop {
                    // Who writes at the same time wins; the next look mends it.
                    let _ = look(&jobs, &workloads).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        Self { workloads, plays }
    }
}

impl Drop for Kueue {
    fn drop(&mut self) {
        self.plays.abort();
    }
}

async fn look(jobs: &Api<Job>, workloads: &Api<DynamicObject>) -> kube::Result<()> {
    let queued = jobs.list(&ListParams::default().labels("kueue.x-k8s.io/queue-name")).await?;
    for job in queued.items.iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
        let uid = job.uid().unwrap_or_default();
        let found = workloads.list(&ListParams::default().labels(&format!("{JOB_UID}={uid}"))).await?;
        let Some(workload) = found.items.first() else {
            let workload = serde_json::from_value(json!({
                "apiVersion": "kueue.x-k8s.io/v1beta1",
                "kind": "Workload",
                "metadata": {"name": format!("job-{}", job.name_any()), "labels": {JOB_UID: uid},
                    "ownerReferences": [job.controller_owner_ref(&())]},
                "spec": {"queueName": job.labels()["kueue.x-k8s.io/queue-name"],
                    "podSets": [{"name": "main", "count": 1, "template": {}}]},
            }));
            workloads.create(&PostParams::default(), &workload.map_err(kube::Error::SerdeError)?).await?;
            continue;
        };
        let wanted = workload.data["spec"]["active"] == Value::Bool(false);
        let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
        let over = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        if suspended != wanted && !over {
            let patch = Patch::Merge(json!({"spec": {"suspend": wanted}}));
            jobs.patch(&job.name_any(), &PatchParams::default(), &patch).await?;
        }
    }
    Ok(())
}

/// The Workload of Kueue 0.14, as far as anybody here reads it.
async fn install(client: Client) {
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "workloads.kueue.x-k8s.io"},
        "spec": {
            "group": "kueue.x-k8s.io",
            "names": {"kind": "Workload", "plural": "workloads", "singular": "workload", "listKind": "WorkloadList", "shortNames": ["wl"]},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "active": {"type": "boolean", "default": true},
                        "queueName": {"type": "string"},
                        "podSets": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    }))
    .expect("a CRD");
    crate::world::establish(client, vec![crd]).await;
}
