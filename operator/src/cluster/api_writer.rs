//! Every write to the API server. Objects are created once and never applied again; only statuses are applied.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::runtime::events::Reporter;
use kube::{Api, Client, Error, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::{RunIdentity, RunKind};
use stic_crds::{GROUP, Reason, RunStatus, VERSION};

use super::objects::Job;
use super::workloads::Workload;
use crate::build::job::{DEADLINE_OF_RUN, QUEUE_NAME, QUEUE_OF_RUN, SUSPENDED_BY};
use crate::build::labels;
use crate::decision::JobDeadline;
use crate::failpoint::{self, Write};
use crate::metrics::Metrics;

/// How long a finished Job stays at least.
const KEPT_SECONDS: i32 = 300;

/// Writes to the API server, counts what it writes, and is where tests end the process.
#[derive(Clone)]
pub struct ApiWriter {
    client: Client,
    metrics: Metrics,
    /// Who publishes events.
    reporter: Reporter,
}

/// The outcome of creating an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<K> {
    /// It exists and is controlled by the run; it may have been created earlier.
    Ours(Box<K>),
    /// An object with that name exists that the run does not control.
    NameTaken,
    /// The API server rejects it, and will until something changes.
    Rejected { message: String },
}

impl ApiWriter {
    #[must_use]
    pub const fn new(client: Client, metrics: Metrics, reporter: Reporter) -> Self {
        Self { client, metrics, reporter }
    }

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

    /// Creates an object of the run with this UID unless it exists, and reads as much of it as `R` has.
    pub async fn create<K, R>(&self, write: Write, object: &K, run_uid: &str) -> kube::Result<Created<R>>
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
            Ok(created) => Ok(Created::Ours(Box::new(created))),
            Err(Error::Api(status)) if status.code == 409 && status.is_already_exists() => {
                Ok(match api.get_opt(&object.name_any()).await? {
                    Some(found) if labels::is_controlled_by(found.meta(), run_uid) => {
                        Created::Ours(Box::new(found))
                    }
                    _ => Created::NameTaken,
                })
            }
            Err(Error::Api(status)) if is_refusal(&status) => {
                Ok(Created::Rejected { message: status.message.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes `run` the owner of a claim that was created for it, or removes all owners that are runs, including those
    /// that share the claim.
    pub async fn own_claim(
        &self,
        run: &RunIdentity,
        claim: &PersistentVolumeClaim,
        owned: bool,
    ) -> kube::Result<()> {
        let (references, labels) = if owned {
            let owner = serde_json::to_value(labels::owner(run)).map_err(Error::SerdeError)?;
            (vec![owner], json!({labels::INSTANCE: run.name}))
        } else {
            let of_runs = claim.owner_references().iter().filter(|owner| labels::is_run(owner));
            let removed = of_runs.map(|owner| json!({"$patch": "delete", "uid": owner.uid})).collect();
            (removed, json!({labels::INSTANCE: null}))
        };
        self.patch_claim(run, claim, references, labels).await
    }

    /// Adds `run` to the owners of a claim, which is deleted with the last of them.
    pub async fn share_claim(&self, run: &RunIdentity, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let mut owner = labels::owner(run);
        owner.controller = None;
        owner.block_owner_deletion = None;
        let owners = vec![serde_json::to_value(owner).map_err(Error::SerdeError)?];
        self.patch_claim(run, claim, owners, json!({})).await
    }

    /// Patches the version that was read, because the new owners depend on the old ones.
    async fn patch_claim(
        &self,
        run: &RunIdentity,
        claim: &PersistentVolumeClaim,
        owners: Vec<Value>,
        labels: Value,
    ) -> kube::Result<()> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &run.namespace);
        let version = claim.resource_version();
        let patch = Patch::Strategic(
            json!({"metadata": {"resourceVersion": version, "ownerReferences": owners, "labels": labels}}),
        );
        let request = async { api.patch(&claim.name_any(), &PatchParams::default(), &patch).await };
        self.write(Write::PatchClaim, request).await.map(drop)
    }

    /// Suspends a Job, or undoes that. The pods of a suspended Job save their state and end. The same write records that it
    /// was the operator.
    pub async fn suspend_job(&self, job: &Job, suspend: bool) -> kube::Result<()> {
        let by = suspend.then_some(labels::OPERATOR);
        let patch = json!({"metadata": {"annotations": {SUSPENDED_BY: by}}, "spec": {"suspend": suspend}});
        self.patch_job(job, patch).await
    }

    /// Changes when Kubernetes ends a Job. The same write records the deadline of the run.
    pub async fn set_deadline(&self, job: &Job, deadline: JobDeadline) -> kube::Result<()> {
        let JobDeadline { of_run, seconds } = deadline;
        let of_run = of_run.map(|seconds| seconds.to_string());
        let patch = json!({
            "metadata": {"annotations": {DEADLINE_OF_RUN: of_run}},
            "spec": {"activeDeadlineSeconds": seconds},
        });
        self.patch_job(job, patch).await
    }

    /// Lets a Job stay for a while after it has finished, so that its result can be read, if an admission webhook has
    /// made Kubernetes delete it earlier.
    pub async fn keep_job(&self, job: &Job) -> kube::Result<()> {
        match job.spec.ttl_seconds_after_finished {
            Some(seconds) if seconds < KEPT_SECONDS => {
                self.patch_job(job, json!({"spec": {"ttlSecondsAfterFinished": KEPT_SECONDS}})).await
            }
            _ => Ok(()),
        }
    }

    /// Replaces labels of a Job. The same write records the queue that the run names.
    pub async fn label_job(&self, job: &Job, labels: &BTreeMap<String, String>) -> kube::Result<()> {
        let mut metadata = json!({"labels": labels});
        if let Some(queue) = labels.get(QUEUE_NAME) {
            metadata["annotations"] = json!({QUEUE_OF_RUN: queue});
        }
        self.patch_job(job, json!({"metadata": metadata})).await
    }

    async fn patch_job(&self, job: &Job, patch: Value) -> kube::Result<()> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        let patch = Patch::Merge(patch);
        let request = async { api.patch(&job.name_any(), &PatchParams::default(), &patch).await };
        ignore_not_found(self.write(Write::PatchJob, request).await.map(drop))
    }

    /// Deactivates a Workload, so that Kueue suspends its Job, or undoes that. The same write records that it was the
    /// operator.
    pub async fn suspend_workload(&self, workload: &Workload, suspend: bool) -> kube::Result<()> {
        let by = suspend.then_some(labels::OPERATOR);
        let patch = json!({"metadata": {"annotations": {SUSPENDED_BY: by}}, "spec": {"active": !suspend}});
        self.patch_workload(workload, patch).await
    }

    /// Moves a Workload to another queue.
    pub async fn move_workload(&self, workload: &Workload, queue: &str) -> kube::Result<()> {
        self.patch_workload(workload, json!({"spec": {"queueName": queue}})).await
    }

    async fn patch_workload(&self, workload: &Workload, patch: Value) -> kube::Result<()> {
        let Workload { name, namespace, resource, .. } = workload;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let patch = Patch::Merge(patch);
        let request = async { api.patch(name, &PatchParams::default(), &patch).await };
        ignore_not_found(self.write(Write::PatchWorkload, request).await.map(drop))
    }

    /// Deletes a Job with its ConfigMap and, in the background, its pods.
    pub async fn delete_job(&self, job: &Job) -> kube::Result<()> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let request = async { maps.delete(&name, &DeleteParams::default()).await };
        ignore_not_found(self.write(Write::DeleteConfigMap, request).await.map(drop))?;
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let request = async { jobs.delete(&name, &DeleteParams::background()).await };
        ignore_not_found(self.write(Write::DeleteJob, request).await.map(drop))
    }

    /// Applies a status over the one of `version`, and returns the new version.
    ///
    /// # Errors
    /// A conflict, if the object has another version by now.
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
            "kind": run.kind.as_str(),
            "metadata": {"name": run.name, "uid": run.uid, "resourceVersion": version},
            "status": status,
        });
        let parameters = PatchParams::apply(manager(run.kind)).force();
        let patch = Patch::Apply(&body);
        let request = api.patch_status(&run.name, &parameters, &patch);
        Ok(self.write(Write::PatchStatus, request).await?.resource_version())
    }

    /// Applies a part of a status and leaves the rest, which another version of the operator wrote.
    pub async fn patch_partial_status<K>(
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
        // A field manager of its own: applying a part as the manager that applied the whole would remove the rest.
        let parameters = PatchParams::apply("stic-operator/not-understood").force();
        let patch = Patch::Apply(&body);
        self.write(Write::PatchStatus, api.patch_status(&run.name, &parameters, &patch)).await.map(drop)
    }

    /// Publishes an event about a run. One that cannot be written is not retried.
    pub async fn publish(&self, run: &RunIdentity, reason: Reason, message: &str) {
        self.publish_as(run, reason.as_str(), reason.is_warning(), message).await;
    }

    /// The same, for what is not a phase.
    pub async fn publish_as(&self, run: &RunIdentity, reason: &str, is_warning: bool, message: &str) {
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(run.kind.as_str().into()),
            name: Some(run.name.clone()),
            namespace: Some(run.namespace.clone()),
            uid: Some(run.uid.clone()),
            ..ObjectReference::default()
        };
        let now = Timestamp::now();
        let Reporter { controller, instance } = &self.reporter;
        // kube's Recorder keeps every event for six minutes and compares each new one with all of them. Our events
        // report that a phase was entered, so they never form a series.
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", run.name, now.as_nanosecond())),
                namespace: Some(run.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(now)),
            // The API server accepts at most 1 KiB.
            note: Some(message.chars().take(1000).collect()),
            reason: Some(reason.to_owned()),
            regarding: Some(reference),
            reporting_controller: Some(controller.clone()),
            reporting_instance: Some(instance.clone().unwrap_or_else(|| controller.clone())),
            type_: Some(if is_warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &run.namespace);
        if let Err(error) = self.write(Write::CreateEvent, api.create(&PostParams::default(), &event)).await {
            tracing::warn!(%error, reason, "cannot publish an event");
        }
    }
}

/// One field manager per controller.
const fn manager(kind: RunKind) -> &'static str {
    match kind {
        RunKind::StageOneRun => "stic-operator/stageonerun",
        RunKind::StageTwoRun => "stic-operator/stagetworun",
        RunKind::EvaluationRun => "stic-operator/evaluationrun",
    }
}

/// Whether an answer is about the request itself, such as 400 from a webhook that denies it without a code. Only a conflict,
/// or too many requests, may pass without any change.
#[must_use]
pub fn is_refusal(status: &kube::core::Status) -> bool {
    (400..500).contains(&status.code) && ![409, 429].contains(&status.code)
}

fn ignore_not_found(answer: kube::Result<()>) -> kube::Result<()> {
    match answer {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer,
    }
}
