//! Runs, and their Jobs and pods: applied, edited, waited for.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::status::RunStatus;
use stic_crds::{EvaluationRun, StageOneRun, StageTwoRun};

use crate::common::{EVALUATION, STAGE_ONE, STAGE_TWO};
use crate::kubelet::{end_pod, failure_message, index, is_running, step, success_message};
use crate::test_env::{PATIENCE, TestEnv, until};
use crate::workloads::QUEUE;

impl TestEnv {
    /// Applies a StageOneRun with additional lines of its spec.
    pub(crate) async fn one(&self, name: &str, extra: &str) {
        self.one_of(name, &format!("{STAGE_ONE}{extra}")).await;
    }

    /// Applies a StageOneRun whose output claim is created for it.
    pub(crate) async fn one_with_claim(&self, name: &str, extra: &str) {
        self.one_of(name, &format!("{}{extra}", with_claim(STAGE_ONE))).await;
    }

    /// Applies a StageOneRun with this spec.
    pub(crate) async fn one_of(&self, name: &str, spec: &str) {
        let api: Api<StageOneRun> = self.api();
        apply(&api, "StageOneRun", name, spec).await;
    }

    pub(crate) async fn one_labelled(&self, name: &str, labels: &Value) {
        self.one_as(json!({"name": name, "labels": labels}), "").await;
    }

    /// Applies a StageOneRun in a queue of Kueue.
    pub(crate) async fn one_in(&self, queue: &str, name: &str) {
        self.one_labelled(name, &json!({QUEUE: queue})).await;
    }

    /// Moves a run to a queue.
    pub(crate) async fn move_to(&self, queue: &str, name: &str) {
        self.edit(name, json!({"metadata": {"labels": {QUEUE: queue}}})).await;
    }

    /// Applies a StageOneRun with this metadata and additional lines of its spec.
    pub(crate) async fn one_as(&self, metadata: Value, extra: &str) {
        let api: Api<StageOneRun> = self.api();
        apply_as(&api, "StageOneRun", metadata, &format!("{STAGE_ONE}{extra}")).await;
    }

    /// Applies a StageTwoRun that starts from `from`.
    pub(crate) async fn two(&self, name: &str, from: &str) {
        self.two_with(name, from, "").await;
    }

    /// The same, with additional lines of its spec.
    pub(crate) async fn two_with(&self, name: &str, from: &str, extra: &str) {
        let api: Api<StageTwoRun> = self.api();
        let spec = STAGE_TWO.replace("{name: coco-6k}", &format!("{{name: {from}}}"));
        apply(&api, "StageTwoRun", name, &format!("{spec}{extra}")).await;
    }

    /// Applies an EvaluationRun of the base, a StageOneRun and a StageTwoRun.
    pub(crate) async fn evaluation(&self, name: &str, [one, two]: [&str; 2], extra: &str) {
        let api: Api<EvaluationRun> = self.api();
        let of = |field: &str, run: &str| format!("{field}: {{name: {run}}}");
        let refers =
            |spec: String, field: &str, run: &str| spec.replace(&of(field, "coco-6k"), &of(field, run));
        let spec = refers(refers(EVALUATION.into(), "stageOneRunRef", one), "stageTwoRunRef", two);
        apply(&api, "EvaluationRun", name, &format!("{spec}{extra}")).await;
    }

    pub(crate) async fn until_evaluation(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        self.until_of::<EvaluationRun>(name, |run| run.status.clone(), what, wanted).await
    }

    pub(crate) async fn until_one(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        self.until_of::<StageOneRun>(name, |run| run.status.clone(), what, wanted).await
    }

    pub(crate) async fn until_two(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        self.until_of::<StageTwoRun>(name, |run| run.status.clone(), what, wanted).await
    }

    async fn until_of<K>(
        &self,
        name: &str,
        status: impl Fn(&K) -> Option<RunStatus>,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let last_status = Mutex::default();
        let as_wanted = |run: Option<&K>| {
            let status = run.and_then(&status).unwrap_or_default();
            let found = run.is_some() && wanted(&status);
            *last_status.lock().expect("nobody panicked") = status;
            found
        };
        let found = tokio::time::timeout(PATIENCE, async {
            // Some tests stop the API server for a while.
            while await_condition(self.api::<K>(), name, &as_wanted).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let status = last_status.lock().expect("nobody panicked").clone();
        if found.is_err() {
            let log = std::fs::read_to_string(&self.setup.log).unwrap_or_default();
            let jobs: Vec<_> =
                self.jobs().await.into_iter().map(|job| (job.name_any(), job.status)).collect();
            panic!("{name}: not {what}: {status:#?}\n{jobs:#?}\n{log}");
        }
        status
    }

    pub(crate) async fn status_of(&self, name: &str) -> RunStatus {
        self.api::<StageOneRun>().get(name).await.expect("it exists").status.unwrap_or_default()
    }

    /// The name of the first Job, once the status has it.
    pub(crate) async fn prepare_job(&self, name: &str) -> String {
        let job = |status: &RunStatus| status.steps.first().and_then(|step| step.job_name.clone());
        let status = self.until_one(name, "started", |status| job(status).is_some()).await;
        job(&status).expect("it has one")
    }

    pub(crate) async fn edit(&self, name: &str, patch: Value) {
        let api: Api<StageOneRun> = self.api();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it may change");
    }

    pub(crate) async fn delete_one(&self, name: &str) {
        let api: Api<StageOneRun> = self.api();
        api.delete(name, &DeleteParams::default()).await.expect("it is deleted");
    }

    pub(crate) async fn jobs_of(&self, name: &str) -> Vec<Job> {
        let of_run = ListParams::default().labels(&format!("stic.dev/run={name}"));
        self.api::<Job>().list(&of_run).await.expect("Jobs").items
    }

    pub(crate) async fn pods_of(&self, name: &str) -> Vec<Pod> {
        let of_run = ListParams::default().labels(&format!("stic.dev/run={name}"));
        self.api::<Pod>().list(&of_run).await.expect("pods").items
    }

    /// Suspends a run and waits until its pods have ended. If it were resumed before that, its Job would keep its pod.
    pub(crate) async fn suspend(&self, name: &str) -> RunStatus {
        self.edit(name, json!({"spec": {"suspend": true}})).await;
        let status = self.until_one(name, "suspended", |status| phase(status) == "Suspended").await;
        self.wait_for_pods_to_end(name).await;
        status
    }

    /// Resumes a suspended run.
    pub(crate) async fn resume(&self, name: &str) {
        self.edit(name, json!({"spec": {"suspend": false}})).await;
    }

    /// Waits until no pod of a run is running or can start: every Job has finished or is acknowledged as suspended. Until the
    /// Job controller has acknowledged it, it may still create a pod.
    pub(crate) async fn wait_for_pods_to_end(&self, name: &str) {
        let over = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let is_settled = |job: &Job| is_any(job, &["Suspended", "Complete", "Failed"]);
        self.until_true("its pods end", async || {
            self.jobs_of(name).await.iter().all(is_settled) && self.pods_of(name).await.iter().all(over)
        })
        .await;
    }

    /// The pod of an index of a step, once it is running.
    pub(crate) async fn pod(&self, name: &str, wanted: StepName, index_of: u32) -> Pod {
        until(&format!("running {wanted} {index_of} of {name}"), async || {
            let pods = self.pods_of(name).await;
            pods.into_iter().find(|pod| is_running(pod) && step(pod) == wanted && index(pod) == index_of)
        })
        .await
    }

    /// Ends the running pod of an index of a step.
    pub(crate) async fn finish(&self, name: &str, wanted: StepName, index: u32, code: i32, text: &str) {
        loop {
            let pod = self.pod(name, wanted, index).await;
            let text = if code == 0 { success_message(&pod) } else { failure_message(wanted, text) };
            // Otherwise another one takes its place.
            if end_pod(&self.api(), &pod, code, &text).await {
                return;
            }
        }
    }

    /// Confirms the deletion of a pod, as the kubelet does once it has ended.
    pub(crate) async fn confirm_deletion(&self, pod: &Pod) {
        let immediately = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api::<Pod>().delete(&pod.name_any(), &immediately).await.expect("it is there");
    }
}

/// A spec whose output claim is created for it.
pub(crate) fn with_claim(spec: &str) -> String {
    let template = "{volumeClaimTemplate: {resources: {requests: {storage: 1Gi}}}}";
    spec.replace("{volume: {claimName: stic, path: coco-6k}}", template)
}

/// Whether a Job has any of these conditions.
pub(crate) fn is_any(job: &Job, kinds: &[&str]) -> bool {
    job.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| kinds.contains(&condition.type_.as_str()) && condition.status == "True")
}

pub(crate) fn phase(status: &RunStatus) -> &str {
    status.phase().unwrap_or_default()
}

/// The message of a condition.
pub(crate) fn text(status: &RunStatus, condition: ConditionType) -> &str {
    status.condition(condition).map_or("", |condition| condition.message.as_str())
}

async fn apply<K>(api: &Api<K>, kind: &str, name: &str, spec: &str)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    apply_as(api, kind, json!({"name": name}), spec).await;
}

async fn apply_as<K>(api: &Api<K>, kind: &str, metadata: Value, spec: &str)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut object: Value = serde_saphyr::from_str(&format!("spec:\n{spec}")).expect("YAML");
    object["apiVersion"] = json!("stic.dev/v1alpha1");
    object["kind"] = json!(kind);
    let name = metadata["name"].as_str().expect("a name").to_owned();
    object["metadata"] = metadata;
    let parameters = PatchParams::apply("test").validation_strict();
    api.patch(&name, &parameters, &Patch::Apply(&object)).await.expect("the API server takes it");
}
