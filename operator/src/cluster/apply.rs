//! Every write to the API server. Objects are created once and never applied again; the one thing that is applied is
//! a status.

use std::fmt::Debug;
use std::future::Future;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::error::DiscoveryError;
use kube::runtime::events::Reporter;
use kube::{Api, Error, Resource, ResourceExt, discovery};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::{RunIdentity, RunKind};
use stic_crds::{GROUP, RunStatus, VERSION};

use super::failpoint::{self, Write};
use super::objects::Job;
use crate::build::labels;
use crate::context::Context;

/// What became of an object that should exist.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<K> {
    /// It was made, now or by us before.
    Ours(Box<K>),
    /// Somebody else has one of that name.
    Taken,
    /// The API server refuses it, and will while nothing changes.
    Refused {
        /// Why.
        message: String,
    },
}

impl Context {
    async fn write<T>(
        &self,
        write: Write,
        request: impl Future<Output = kube::Result<T>>,
    ) -> kube::Result<T> {
        failpoint::before(write);
        let answer = request.await;
        let result = match &answer {
            Ok(_) => "ok",
            Err(Error::Api(status)) if status.code == 409 => "conflict",
            Err(_) => "error",
        };
        self.metrics.wrote(write, result);
        if answer.is_ok() {
            failpoint::after(write);
        }
        answer
    }

    /// Creates an object of a run unless it is there, and reads as much of it as `R` has.
    pub async fn create<K, R>(&self, write: Write, object: &K, uid: &str) -> kube::Result<Created<R>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Serialize,
        R: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<R> = Api::namespaced(self.client.clone(), &namespace);
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        let request = Request::new(api.resource_url()).create(&PostParams::default(), body);
        let request = request.map_err(Error::BuildRequest)?;
        match self.write(write, self.client.request::<R>(request)).await {
            Ok(made) => Ok(Created::Ours(Box::new(made))),
            Err(Error::Api(status)) if status.code == 409 && status.is_already_exists() => {
                Ok(match api.get_opt(&object.name_any()).await? {
                    Some(found) if is_ours(found.meta(), uid) => Created::Ours(Box::new(found)),
                    _ => Created::Taken,
                })
            }
            Err(Error::Api(status)) if [403, 422].contains(&status.code) => {
                Ok(Created::Refused { message: status.message.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes `run` own a claim that was made for it, or lets go of it: then no run takes it along, also none that it
    /// was shared with.
    pub async fn own_claim(
        &self,
        run: &RunIdentity,
        claim: &PersistentVolumeClaim,
        owned: bool,
    ) -> kube::Result<()> {
        let references = if owned {
            vec![serde_json::to_value(labels::owner(run)).map_err(Error::SerdeError)?]
        } else {
            let of_runs = claim.owner_references().iter().filter(|owner| labels::is_run(owner));
            of_runs.map(|owner| json!({"$patch": "delete", "uid": owner.uid})).collect()
        };
        self.patch_claim(run, claim, references).await
    }

    /// Makes `run` one of the owners that a claim goes with: the last of them takes it along.
    pub async fn share_claim(&self, run: &RunIdentity, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let mut owner = labels::owner(run);
        owner.controller = None;
        owner.block_owner_deletion = None;
        self.patch_claim(run, claim, vec![serde_json::to_value(owner).map_err(Error::SerdeError)?]).await
    }

    /// Of the version that was looked at: who owns a claim depends on who did.
    async fn patch_claim(
        &self,
        run: &RunIdentity,
        claim: &PersistentVolumeClaim,
        owners: Vec<Value>,
    ) -> kube::Result<()> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &run.namespace);
        let version = claim.resource_version();
        let patch =
            Patch::Strategic(json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}}));
        let request = async { api.patch(&claim.name_any(), &PatchParams::default(), &patch).await };
        self.write(Write::PatchClaim, request).await.map(drop)
    }

    /// Holds a plain Job, or lets it go on. Its pods end and save.
    pub async fn suspend_job(&self, job: &Job, held: bool) -> kube::Result<()> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"spec": {"suspend": held}}));
        let request = async { api.patch(&job.name_any(), &PatchParams::default(), &patch).await };
        forgive_missing(self.write(Write::PatchJob, request).await.map(drop))
    }

    /// Holds a Job that Kueue admits, or lets Kueue admit it again: its Workload is what may be changed, never the
    /// Job.
    pub async fn suspend_workload(&self, job: &Job, held: bool) -> kube::Result<()> {
        let Some(resource) = self.workloads().await? else { return Ok(()) };
        let namespace = job.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        let of_job = format!("kueue.x-k8s.io/job-uid={}", job.uid().unwrap_or_default());
        let workloads = api.list(&ListParams::default().labels(&of_job)).await?;
        for workload in workloads {
            let active = workload.data["spec"]["active"].as_bool().unwrap_or(true);
            if active == held {
                let patch = Patch::Merge(json!({"spec": {"active": !held}}));
                let request =
                    async { api.patch(&workload.name_any(), &PatchParams::default(), &patch).await };
                self.write(Write::PatchWorkload, request).await?;
            }
        }
        Ok(())
    }

    /// Kueue's Workload in the version that the cluster prefers. Absent where the label asks for a queue that nobody
    /// serves: the Job was created suspended and stays so.
    async fn workloads(&self) -> kube::Result<Option<ApiResource>> {
        match discovery::group(&self.client, "kueue.x-k8s.io").await {
            Ok(group) => Ok(group.recommended_kind("Workload").map(|(resource, _)| resource)),
            Err(Error::Discovery(DiscoveryError::MissingApiGroup(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a Job, its ConfigMap and, behind it, its pods.
    pub async fn delete_job(&self, job: &Job) -> kube::Result<()> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let request = async { maps.delete(&name, &DeleteParams::default()).await };
        forgive_missing(self.write(Write::DeleteConfigMap, request).await.map(drop))?;
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let request = async { jobs.delete(&name, &DeleteParams::background()).await };
        forgive_missing(self.write(Write::DeleteJob, request).await.map(drop))
    }

    /// Writes a status over the one of `version`, or fails with a conflict.
    pub async fn patch_status<K>(
        &self,
        run: &RunIdentity,
        version: Option<&str>,
        status: &RunStatus,
    ) -> kube::Result<Option<String>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &run.namespace);
        let body = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": labels::kind(run.kind),
            "metadata": {"name": run.name, "uid": run.uid, "resourceVersion": version},
            "status": status,
        });
        let parameters = PatchParams::apply(manager(run.kind)).force();
        let patch = Patch::Apply(&body);
        let request = api.patch_status(&run.name, &parameters, &patch);
        Ok(self.write(Write::PatchStatus, request).await?.resource_version())
    }

    /// Writes a part of a status beside the rest of it, which is another version's and stays.
    pub async fn patch_beside<K>(
        &self,
        run: &RunIdentity,
        version: Option<&str>,
        status: &Value,
    ) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &run.namespace, &resource);
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": run.name, "uid": run.uid, "resourceVersion": version},
            "status": status,
        });
        // As its own manager: to apply a part under the name that applied the whole would remove the rest.
        let parameters = PatchParams::apply("stic-operator/not-understood").force();
        let patch = Patch::Apply(&body);
        self.write(Write::PatchStatus, api.patch_status(&run.name, &parameters, &patch)).await.map(drop)
    }

    /// Publishes an event about a run. One that cannot be written is not worth a retry.
    pub async fn publish(&self, run: &RunIdentity, warning: bool, reason: &str, note: &str) {
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(labels::kind(run.kind).into()),
            name: Some(run.name.clone()),
            namespace: Some(run.namespace.clone()),
            uid: Some(run.uid.clone()),
            ..ObjectReference::default()
        };
        let now = Timestamp::now();
        let Reporter { controller, instance } = &self.reporter;
        // kube's Recorder keeps every event for six minutes and walks over all of them for each new one; ours say that
        // a phase was entered, and are no series.
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", run.name, now.as_nanosecond())),
                namespace: Some(run.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(now)),
            // The API server takes no longer one.
            note: Some(note.chars().take(1000).collect()),
            reason: Some(reason.to_owned()),
            regarding: Some(reference),
            reporting_controller: Some(controller.clone()),
            reporting_instance: Some(instance.clone().unwrap_or_else(|| controller.clone())),
            type_: Some(if warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &run.namespace);
        if let Err(error) = self.write(Write::CreateEvent, api.create(&PostParams::default(), &event)).await {
            tracing::warn!(%error, "an event was not written");
        }
    }
}

/// One field manager per controller.
const fn manager(kind: RunKind) -> &'static str {
    match kind {
        RunKind::StageOneRun => "stic-operator/stageonerun",
        RunKind::StageTwoRun => "stic-operator/stagetworun",
    }
}

fn forgive_missing(answer: kube::Result<()>) -> kube::Result<()> {
    match answer {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer,
    }
}

/// Whether an object is a child of the run of `uid`.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}
