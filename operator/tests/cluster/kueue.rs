//! Under Kueue: it unsuspends Jobs and changes them, takes them back, and nobody of us interferes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use stic_contract::StepName;
use tokio::task::JoinHandle;

use crate::director::{Director, text, until};
use crate::kubelet::Act;
use crate::world::{World, phase};

const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// As much of Kueue's API as anybody of us reads; `served` are its versions.
async fn serve(client: &Client, served: &[&str]) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &str| {
        json!({"name": name, "served": served.contains(&name), "storage": name == "v1beta1",
        "schema": schema})
    };
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "workloads.kueue.x-k8s.io"},
        "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "Workload", "plural": "workloads", "singular": "workload", "listKind": "WorkloadList"},
            "versions": [version("v1beta1"), version("v1beta2")]}});
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let parameters = PatchParams::apply("test").force();
    api.patch("workloads.kueue.x-k8s.io", &parameters, &Patch::Apply(&crd)).await.expect("a CRD");
    until("served as asked", async || {
        let group = client.list_api_groups().await.ok()?.groups;
        let group = group.into_iter().find(|group| group.name == "kueue.x-k8s.io")?;
        let mut versions: Vec<_> = group.versions.into_iter().map(|version| version.version).collect();
        versions.sort();
        (versions == served).then_some(())
    })
    .await;
}

/// Kueue: a Workload for every Job of a queue, which is admitted while there is room and it is active.
struct Kueue {
    room: Arc<AtomicBool>,
    /// How often each Job was changed, by name.
    changes: Arc<Mutex<HashMap<String, i64>>>,
    play: JoinHandle<()>,
}

impl Kueue {
    fn start(world: &World, version: &str) -> Self {
        let (room, changes) =
            (Arc::new(AtomicBool::new(false)), Arc::<Mutex<HashMap<String, i64>>>::default());
        let (has_room, count) = (room.clone(), changes.clone());
        let kind = GroupVersionKind::gvk("kueue.x-k8s.io", version, "Workload");
        let resource = ApiResource::from_gvk(&kind);
        let workloads = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
        let jobs: Api<Job> = world.api();
        let play = tokio::spawn(async move {
            loop {
                let of_queue = ListParams::default().labels(QUEUE);
                for job in jobs.list(&of_queue).await.map(|list| list.items).unwrap_or_default() {
                    let over = job.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(
                        |condition| {
                            ["Complete", "Failed"].contains(&condition.type_.as_str())
                                && condition.status == "True"
                        },
                    );
                    if over || job.metadata.deletion_timestamp.is_some() {
                        continue;
                    }
                    let Some(active) = active(&workloads, &resource, &job).await else { continue };
                    let admitted = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(false);
                    if admitted == (active && has_room.load(Ordering::Relaxed)) {
                        continue;
                    }
                    if admitted {
                        take_back(&jobs, &job).await
                    } else {
                        admit(&jobs, &job).await
                    }
                    *count.lock().expect("nobody panicked").entry(job.name_any()).or_default() += 1;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { room, changes, play }
    }

    fn has_room(&self, room: bool) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Every change of a spec is a generation: there are as many as Kueue made, and so none of anybody else.
    async fn alone_changed(&self, world: &World, run: &str) {
        let jobs = world.jobs_of(run).await;
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
        self.play.abort();
    }
}

/// Whether the Workload of a Job is active. It is made if it is not there.
async fn active(workloads: &Api<DynamicObject>, resource: &ApiResource, job: &Job) -> Option<bool> {
    let name = format!("job-{}", job.name_any());
    if let Some(workload) = workloads.get_opt(&name).await.ok()? {
        return Some(workload.data["spec"]["active"].as_bool().unwrap_or(true));
    }
    let uid = job.uid().unwrap_or_default();
    let mut workload = DynamicObject::new(&name, resource);
    workload.metadata.labels = Some([("kueue.x-k8s.io/job-uid".to_owned(), uid)].into());
    workload.metadata.owner_references = job.controller_owner_ref(&()).map(|owner| vec![owner]);
    workload.data = json!({"spec": {"active": true, "queueName": job.labels().get(QUEUE)}});
    workloads.create(&PostParams::default(), &workload).await.ok()?;
    Some(true)
}

/// In one write, as Kueue does: the flavour's nodes, and fewer pods at once where that may be.
async fn admit(jobs: &Api<Job>, job: &Job) {
    let patch = json!({"spec": {"suspend": false, "parallelism": 1,
        "template": {"spec": {"nodeSelector": {"flavour": "spot"}}}}});
    jobs.patch(&job.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await.expect("a Job");
}

/// In one write less than Kueue, which restores the template when the pods have ended.
async fn take_back(jobs: &Api<Job>, job: &Job) {
    let patch: Value = json!({"spec": {"suspend": true}});
    jobs.patch(&job.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await.expect("a Job");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn kueue_alone_decides_when_a_queued_run_runs() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Generate => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    for (run, version, served) in [
        ("old", "v1beta1", ["v1beta1"].as_slice()),
        ("both", "v1beta2", &["v1beta1", "v1beta2"]),
        ("new", "v1beta2", &["v1beta2"]),
    ] {
        serve(&world.client, served).await;
        let kueue = Kueue::start(&world, version);
        life(&world, &kueue, run).await;
        kueue.alone_changed(&world, run).await;
    }
    director.check().await;
}

/// Queued, admitted, preempted, held, let go, and done.
async fn life(world: &World, kueue: &Kueue, run: &str) {
    let spec: Value = serde_saphyr::from_str(crate::common::STAGE_ONE).expect("YAML");
    let object = json!({"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
        "metadata": {"name": run, "labels": {QUEUE: "research"}}, "spec": spec});
    let api: Api<stic_crds::StageOneRun> = world.api();
    api.patch(run, &PatchParams::apply("test"), &Patch::Apply(&object)).await.expect("a run");
    world.edit(run, json!({"spec": {"backoff": {"limit": 0}}})).await;
    let status = world.until_one(run, "is queued", |status| phase(status) == "Queued").await;
    assert!(text(&status, "Succeeded").contains("queue research"), "{}", text(&status, "Succeeded"));
    assert!(world.pods_of(run).await.is_empty());
    kueue.has_room(true);
    let pod = world.pod(run, StepName::Generate, 0).await;
    assert_eq!(pod.spec.and_then(|spec| spec.node_selector).unwrap_or_default()["flavour"], "spot");
    world.until_one(run, "generates", |status| phase(status) == "Generating").await;
    kueue.has_room(false);
    world.until_one(run, "is queued again", |status| phase(status) == "Queued").await;
    until("its pod gone", async || running(world, run).await.is_none().then_some(())).await;
    kueue.has_room(true);
    let pod = world.pod(run, StepName::Generate, 0).await;
    world.edit(run, json!({"spec": {"suspend": true}})).await;
    let status = world.until_one(run, "is held", |status| phase(status) == "Suspended").await;
    assert!(text(&status, "Succeeded").ends_with("set spec.suspend to false to go on"));
    until("its pod gone", async || running(world, run).await.is_none().then_some(())).await;
    world.edit(run, json!({"spec": {"suspend": false}})).await;
    let again = world.pod(run, StepName::Generate, 0).await;
    assert_ne!(again.uid(), pod.uid());
    world.finish(run, StepName::Generate, 0, 0, "").await;
    let status = world.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs_of(run).await.len(), 3, "{:?}", status.steps);
    kueue.has_room(false);
}

async fn running(world: &World, run: &str) -> Option<String> {
    let pods = world.pods_of(run).await;
    let running = |pod: &&k8s_openapi::api::core::v1::Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    pods.iter().find(running).map(ResourceExt::name_any)
}
