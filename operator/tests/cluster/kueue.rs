//! The controller beside the real Kueue, which `make kueue-test` builds and starts.

mod admission;
mod alone;
mod endings;
mod moves;
mod shards;
mod stops;
mod suspension;

use std::process::Command;

use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::status::RunStatus;

use crate::runs::{phase, text};
use crate::test_env::{TestEnv, until};

pub(crate) use crate::workloads::QUEUE;

pub(crate) const PRIORITY: &str = "kueue.x-k8s.io/priority-class";

impl TestEnv {
    /// The objects of a kind of Kueue's API, in this namespace if they are in one.
    fn kueue(&self, kind: &str) -> Api<DynamicObject> {
        let resource = resource(kind);
        match kind {
            "LocalQueue" | "Workload" => {
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
            }
            _ => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// A name for an object that is in no namespace.
    fn global(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Applies an object of Kueue's API.
    async fn set(&self, kind: &str, name: &str, content: &Value) {
        let mut object = content.clone();
        let resource = resource(kind);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        let parameters = PatchParams::apply("test").force();
        self.kueue(kind).patch(name, &parameters, &Patch::Apply(&object)).await.expect("Kueue takes it");
    }

    /// Changes an object of Kueue's API.
    async fn change(&self, kind: &str, name: &str, change: Value) {
        let change = Patch::Merge(change);
        self.kueue(kind).patch(name, &PatchParams::default(), &change).await.expect("Kueue takes it");
    }

    /// A LocalQueue, with a ClusterQueue of its own that admits so many pods at once.
    async fn queue(&self, name: &str, pods: u32) {
        self.cluster_queue(name, pods).await;
        self.local_queue(name).await;
    }

    async fn local_queue(&self, name: &str) {
        self.set("LocalQueue", name, &json!({"spec": {"clusterQueue": self.global(name)}})).await;
    }

    async fn cluster_queue(&self, name: &str, pods: u32) {
        let flavor = json!({"spec": {"nodeLabels": {"pool": "spot"},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]}});
        self.set("ResourceFlavor", &self.global(name), &flavor).await;
        let spec = json!({"namespaceSelector": {}, "resourceGroups": self.quota(name, pods),
            "preemption": {"withinClusterQueue": "LowerPriority"}});
        self.set("ClusterQueue", &self.global(name), &json!({"spec": spec})).await;
    }

    fn quota(&self, name: &str, pods: u32) -> Value {
        json!([{"coveredResources": ["pods"], "flavors": [{"name": self.global(name),
            "resources": [{"name": "pods", "nominalQuota": pods}]}]}])
    }

    async fn set_quota(&self, name: &str, pods: u32) {
        let change = json!({"spec": {"resourceGroups": self.quota(name, pods)}});
        self.change("ClusterQueue", &self.global(name), change).await;
    }

    /// The Workload of the last Job of a run, once Kueue has created it.
    async fn workload(&self, run: &str) -> DynamicObject {
        until("a Workload", async || {
            let jobs = self.jobs_of(run).await;
            let job = jobs.iter().max_by_key(|job| job.metadata.creation_timestamp.clone())?;
            let of_job = format!("kueue.x-k8s.io/job-uid={}", job.uid()?);
            let found = self.kueue("Workload").list(&ListParams::default().labels(&of_job)).await;
            found.expect("Workloads").items.into_iter().next()
        })
        .await
    }

    /// Waits until a run is queued and its message has all of `words`. Returns the status.
    async fn queued(&self, run: &str, words: &[&str]) -> RunStatus {
        let status = self
            .until_one(run, &format!("queued with {words:?}"), |status| {
                let message = text(status, ConditionType::Succeeded);
                phase(status) == "Queued" && words.iter().all(|word| message.contains(word))
            })
            .await;
        assert!(status.progress.is_none(), "nothing runs: {:?}", status.progress);
        let active = status.active_time.as_ref().expect("it is counted");
        assert!(active.since.is_none(), "the deadline does not count the time in a queue");
        status
    }

    async fn succeeds(&self, run: &str) -> RunStatus {
        self.until_one(run, "done", |status| phase(status) == "Succeeded").await
    }

    /// Waits until the only run of a test has succeeded, and checks that each of its steps took one pod.
    async fn succeeds_without_retries(&self, run: &str) {
        self.succeeds(run).await;
        let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
        self.expect_calm(&once).await;
    }

    /// The Workloads of this namespace.
    async fn workloads(&self) -> Vec<DynamicObject> {
        self.kueue("Workload").list(&ListParams::default()).await.expect("Workloads").items
    }

    /// Checks that so many pods of each step were started, and that neither the operator nor Kueue wrote without end.
    async fn expect_calm(&self, pods: &[(StepName, usize)]) {
        assert_eq!(self.pods_started(), pods.iter().copied().collect());
        let total = async |metric| until("metrics", async || self.operator().metric(metric, &[]).await).await;
        let (writes, launches) =
            (total("stic_api_writes_total").await, total("stic_step_launches_total").await);
        assert!(writes <= 40 * (1 + launches), "{writes} writes for {launches} Jobs");
        for job in self.jobs().await {
            // A generation is a change of the spec: an admission or an eviction is one to three.
            assert!(job.metadata.generation < Some(20), "{}: {:?}", job.name_any(), job.metadata.generation);
        }
    }

    /// What `kubectl stic` prints.
    fn stic(&self, arguments: &[&str]) -> String {
        let program = std::env::var("STIC_BIN").expect("make sets STIC_BIN");
        let output = Command::new(format!("{program}/kubectl-stic"))
            .args(arguments)
            .args(["--namespace", &self.namespace])
            .output()
            .expect("kubectl-stic runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", kind))
}

/// Whether a Workload has this condition.
fn is(workload: &DynamicObject, kind: &str, status: &str) -> bool {
    let conditions = workload.data["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|found| found["type"] == kind && found["status"] == status)
}
