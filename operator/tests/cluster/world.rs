//! A namespace with claims, the CRDs, and an operator that looks after it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_crds::status::{RunStatus, SUCCEEDED};
use stic_crds::{StageOneRun, StageTwoRun};
use tokio::sync::OnceCell;

use crate::kubelet::{Kubelet, Script};

const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct World {
    pub client: Client,
    pub namespace: String,
    /// The address of its pods.
    pub address: String,
    operator: Option<Child>,
    log: PathBuf,
    _kubelet: Kubelet,
}

static CRDS: OnceCell<()> = OnceCell::const_new();

impl World {
    /// A namespace whose pods end as `script` says.
    pub(crate) async fn new(script: impl Script) -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        CRDS.get_or_init(|| install(client.clone())).await;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t-{}-{count}", std::process::id());
        // Every address of 127/8 is this machine.
        let address = format!("127.{}.{}.1", 64 + std::process::id() % 128, count % 256);
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a Namespace");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        let world = Self {
            log: std::env::temp_dir().join(format!("stic-{namespace}.log")),
            _kubelet: Kubelet::start(client.clone(), &namespace, address.clone(), script),
            client,
            namespace,
            address,
            operator: None,
        };
        for claim in ["models", "coco", "llava", "stic"] {
            world.claim(claim).await;
        }
        world
    }

    pub(crate) async fn claim(&self, name: &str) {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .expect("a claim");
        self.api().create(&PostParams::default(), &claim).await.expect("a claim");
    }

    /// Starts the operator, with `failpoint` armed.
    pub(crate) fn start_with(&mut self, failpoint: Option<&str>) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_stic-operator"));
        command
            .args(["--namespace", &self.namespace, "--lease-namespace", &self.namespace])
            .args(["--listen", "127.0.0.1:0", "--trainer-image", "registry/trainer@sha256:00"])
            .args(["--leader-election", "false", "--log-format", "text", "--progress-seconds", "1"])
            .args(["--log-level", "stic_operator=debug,info"])
            .env_remove("STIC_FAILPOINT")
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(failpoint) = failpoint {
            command.env("STIC_FAILPOINT", failpoint);
        }
        self.operator = Some(command.spawn().expect("the operator starts"));
    }

    pub(crate) fn start(&mut self) {
        self.start_with(None);
    }

    #[cfg(feature = "failpoints")]
    /// Whether the operator has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let operator = self.operator.as_mut().expect("it was started");
        operator.try_wait().expect("it is our child").is_some()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            let _ = operator.kill();
            let _ = operator.wait();
        }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn stage_one(&self, extra: &str) {
        self.stage_one_of(&format!("{}{extra}", crate::common::STAGE_ONE)).await;
    }

    pub(crate) async fn stage_one_of(&self, spec: &str) {
        let api: Api<StageOneRun> = self.api();
        apply(&api, "StageOneRun", "one", spec).await;
    }

    pub(crate) async fn stage_two(&self) {
        let api: Api<StageTwoRun> = self.api();
        apply(&api, "StageTwoRun", "two", &crate::common::STAGE_TWO.replace("coco-6k}}", "one}}")).await;
    }

    pub(crate) async fn patch(&self, patch: Value) {
        let api: Api<StageOneRun> = self.api();
        api.patch("one", &PatchParams::default(), &Patch::Merge(patch)).await.expect("it may change");
    }

    pub(crate) async fn jobs(&self) -> Vec<Job> {
        self.api::<Job>().list(&ListParams::default()).await.expect("Jobs").items
    }

    pub(crate) async fn status_of_one(&self) -> RunStatus {
        self.api::<StageOneRun>().get("one").await.expect("it exists").status.unwrap_or_default()
    }

    /// Waits until the status of `one` is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&RunStatus) -> bool) -> RunStatus {
        self.until_of::<StageOneRun>("one", |run| run.status.clone(), what, wanted).await
    }

    pub(crate) async fn until_two(&self, what: &str, wanted: impl Fn(&RunStatus) -> bool) -> RunStatus {
        self.until_of::<StageTwoRun>("two", |run| run.status.clone(), what, wanted).await
    }

    pub(crate) async fn until_of<K>(
        &self,
        name: &str,
        status: impl Fn(&K) -> Option<RunStatus>,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let since = Instant::now();
        loop {
            let run = self.api::<K>().get(name).await.expect("it exists");
            let status = status(&run).unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            if since.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let jobs: Vec<_> =
                    self.jobs().await.into_iter().map(|job| (job.name_any(), job.status)).collect();
                panic!("not {what}: {status:#?}\n{jobs:#?}\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn phase(status: &RunStatus) -> &str {
    status.condition(SUCCEEDED).map_or("", |condition| condition.reason.as_str())
}

pub(crate) async fn apply<K>(api: &Api<K>, kind: &str, name: &str, spec: &str)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut object: Value = serde_saphyr::from_str(&format!("spec:\n{spec}")).expect("YAML");
    object["apiVersion"] = json!("stic.dev/v1alpha1");
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": name});
    let parameters = PatchParams::apply("test").validation_strict();
    api.patch(name, &parameters, &Patch::Apply(&object)).await.expect("the API server takes it");
}

async fn install(client: Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for (_, crd) in stic_crds::schema::all().expect("they are objects") {
        let name = crd.name_any();
        let mut crd = serde_json::to_value(crd).expect("JSON");
        crd.as_object_mut().expect("an object").remove("status");
        let parameters = PatchParams::apply("test").force();
        api.patch(&name, &parameters, &Patch::Apply(&crd)).await.expect("the API server takes the CRD");
        let since = Instant::now();
        loop {
            let crd = api.get(&name).await.expect("it exists");
            let established = crd
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            if established {
                break;
            }
            assert!(since.elapsed() < PATIENCE, "{name} is not established");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
