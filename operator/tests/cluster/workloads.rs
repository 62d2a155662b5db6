//! Stands in for Kueue: creates a Workload for each Job of a queue, and admits it while there is room and it is active.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::runs::is_any;
use crate::test_env::TestEnv;

pub(crate) const QUEUE: &str = "kueue.x-k8s.io/queue-name";
pub(crate) const VERSIONS: [&str; 2] = ["v1beta1", "v1beta2"];

pub(crate) struct Kueue {
    pub workloads: Api<DynamicObject>,
    /// How often it changed each Job, by name.
    changes: Arc<Mutex<HashMap<String, i64>>>,
    room: Arc<AtomicBool>,
    plays: JoinHandle<()>,
}

impl Kueue {
    /// Manages the queues of a test environment until it is dropped, with room for all Jobs.
    pub(crate) async fn start(env: &TestEnv) -> Self {
        installed(env).await;
        Self::speaking(env, VERSIONS[1])
    }

    /// The same, with this version of the API.
    pub(crate) fn speaking(env: &TestEnv, version: &str) -> Self {
        let resource = workload(version);
        let workloads: Api<DynamicObject> =
            Api::namespaced_with(env.client.clone(), &env.namespace, &resource);
        let changes = Arc::<Mutex<HashMap<String, i64>>>::default();
        let room = Arc::new(AtomicBool::new(true));
        let player = Player {
            jobs: env.api(),
            workloads: workloads.clone(),
            resource,
            changes: changes.clone(),
            room: room.clone(),
        };
        let plays = tokio::spawn(async move {
            loop {
                // A concurrent writer wins, and the next round tries again.
                let _ = player.look().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { workloads, changes, room, plays }
    }

    pub(crate) fn has_room(&self, room: bool) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Each change of a spec is a generation. There must be exactly as many as Kueue has made.
    pub(crate) async fn alone_changed(&self, env: &TestEnv, run: &str) {
        let jobs = env.jobs_of(run).await;
        let changes = self.changes.lock().expect("nobody panicked").clone();
        assert!(jobs.iter().all(|job| job.labels().contains_key(QUEUE)));
        for job in jobs {
            let by_kueue = changes.get(&job.name_any()).copied().unwrap_or_default();
            assert_eq!(job.metadata.generation, Some(1 + by_kueue), "{}", job.name_any());
        }
    }
}

impl Drop for Kueue {
    fn drop(&mut self) {
        self.plays.abort();
    }
}

/// The Workloads of a test environment.
pub(crate) async fn workloads(env: &TestEnv) -> Api<DynamicObject> {
    installed(env).await;
    Api::namespaced_with(env.client.clone(), &env.namespace, &workload(VERSIONS[1]))
}

async fn installed(env: &TestEnv) {
    static CRD: OnceCell<()> = OnceCell::const_new();
    CRD.get_or_init(|| serve(&env.client, &VERSIONS)).await;
}

fn workload(version: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", version, "Workload"))
}

/// The Workload that Kueue creates for a Job.
pub(crate) fn workload_of(job: &Job) -> DynamicObject {
    let mut workload = DynamicObject::new(&format!("job-{}", job.name_any()), &workload(VERSIONS[1]));
    workload.metadata.labels =
        Some([("kueue.x-k8s.io/job-uid".to_owned(), job.uid().unwrap_or_default())].into());
    workload.metadata.owner_references = job.controller_owner_ref(&()).map(|owner| vec![owner]);
    workload.data = json!({"spec": {"active": true, "queueName": job.labels().get(QUEUE)}});
    workload
}

pub(crate) fn active(workload: &DynamicObject) -> bool {
    workload.data["spec"]["active"] == Value::Bool(true)
}

struct Player {
    jobs: Api<Job>,
    workloads: Api<DynamicObject>,
    resource: ApiResource,
    changes: Arc<Mutex<HashMap<String, i64>>>,
    room: Arc<AtomicBool>,
}

impl Player {
    async fn look(&self) -> kube::Result<()> {
        for job in self.jobs.list(&ListParams::default().labels(QUEUE)).await?.items {
            if job.metadata.deletion_timestamp.is_some() || is_any(&job, &["Complete", "Failed"]) {
                continue;
            }
            let wanted = self.workload_is_active(&job).await? && self.room.load(Ordering::Relaxed);
            let admitted = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(false);
            let patch = match (admitted, wanted) {
                // In one write, as Kueue does: the node selector of the flavour, and less parallelism if that is allowed.
                (false, true) => json!({"spec": {"suspend": false, "parallelism": 1,
                    "template": {"spec": {"nodeSelector": {"flavour": "spot"}}}}}),
                // With one write less than Kueue, which restores the template once the pods have ended.
                (true, false) => json!({"spec": {"suspend": true}}),
                _ => continue,
            };
            self.jobs.patch(&job.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await?;
            *self.changes.lock().expect("nobody panicked").entry(job.name_any()).or_default() += 1;
        }
        Ok(())
    }

    /// Whether the Workload of a Job is active. It is created if it does not exist.
    async fn workload_is_active(&self, job: &Job) -> kube::Result<bool> {
        let name = format!("job-{}", job.name_any());
        if let Some(workload) = self.workloads.get_opt(&name).await? {
            return Ok(active(&workload));
        }
        let types =
            TypeMeta { api_version: self.resource.api_version.clone(), kind: self.resource.kind.clone() };
        let workload = DynamicObject { types: Some(types), ..workload_of(job) };
        self.workloads.create(&PostParams::default(), &workload).await?;
        Ok(true)
    }
}

/// Serves these versions of the part of Kueue's API that is used here.
pub(crate) async fn serve(client: &Client, served: &[&str]) {
    let version = |name: &str| {
        json!({"name": name, "served": served.contains(&name), "storage": name == VERSIONS[0],
        "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "active": {"type": "boolean", "default": true},
                "queueName": {"type": "string"},
            }},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}})
    };
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "workloads.kueue.x-k8s.io"},
        "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "Workload", "plural": "workloads", "singular": "workload",
                "listKind": "WorkloadList", "shortNames": ["wl"]},
            "versions": VERSIONS.map(version)},
    }))
    .expect("a CRD");
    crate::test_env::establish(client.clone(), [crd]).await;
    crate::test_env::until("served in that version", async || {
        let group = client.list_api_groups().await.ok()?.groups;
        let group = group.into_iter().find(|group| group.name == "kueue.x-k8s.io")?;
        let mut versions: Vec<_> = group.versions.into_iter().map(|version| version.version).collect();
        versions.sort();
        (versions == served).then_some(())
    })
    .await;
}
