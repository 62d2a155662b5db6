//! A namespace with claims, the CRDs, and an operator that looks after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::status::{RunStatus, SUCCEEDED};
use stic_crds::{StageOneRun, StageTwoRun};
use tokio::sync::OnceCell;

use crate::account;
use crate::kubelet::{self, Kubelet, Script};
use crate::operator::{Operator, Setup};

const PATIENCE: Duration = Duration::from_secs(180);

/// What every operator of the tests gives pods.
pub(crate) const TRAINER_IMAGE: &str = "registry/trainer@sha256:00";

pub(crate) struct World {
    pub client: Client,
    pub namespace: String,
    /// The address of its pods.
    pub address: String,
    /// How its operators are started.
    pub setup: Setup,
    operator: Option<Operator>,
    kubelet: Kubelet,
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
        let address = format!("127.{}.{}.{}", 64 + std::process::id() % 128, count % 256, 1 + count / 256);
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a Namespace");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        let setup = Setup {
            namespace: namespace.clone(),
            kubeconfig: account::kubeconfig(&client, None).await,
            listen: SocketAddr::new(address.parse().expect("an address"), 8081),
            log: account::folder("log").join(format!("operator-{namespace}.log")),
            trainer_image: TRAINER_IMAGE.into(),
            candidate: None,
            failpoint: None,
        };
        let world = Self {
            kubelet: Kubelet::start(client.clone(), &namespace, address.clone(), script),
            client,
            namespace,
            address,
            setup,
            operator: None,
        };
        for claim in ["models", "coco", "llava", "stic"] {
            world.claim(claim).await;
        }
        world
    }

    /// Starts the operator.
    pub(crate) fn start(&mut self) {
        self.operator = Some(Operator::start(&self.setup));
    }

    pub(crate) fn kill(&mut self) {
        self.operator = None;
    }

    pub(crate) async fn claim(&self, name: &str) {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .expect("a claim");
        self.api().create(&PostParams::default(), &claim).await.expect("a claim");
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

    pub(crate) async fn stage_one_labelled(&self, labels: &Value, extra: &str) {
        let api: Api<StageOneRun> = self.api();
        let metadata = json!({"name": "one", "labels": labels});
        apply_as(&api, "StageOneRun", metadata, &format!("{}{extra}", crate::common::STAGE_ONE)).await;
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
        let api = self.api::<K>();
        let mut seen = String::new();
        loop {
            // An API server that is away for a while is part of some tests.
            match api.get(name).await {
                Ok(run) => {
                    let status = status(&run).unwrap_or_default();
                    if wanted(&status) {
                        return status;
                    }
                    seen = format!("{status:#?}");
                }
                Err(error) => seen = format!("{seen}\n{error}"),
            }
            if since.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.setup.log).unwrap_or_default();
                let jobs: Vec<_> =
                    self.jobs().await.into_iter().map(|job| (job.name_any(), job.status)).collect();
                panic!("not {what}: {seen}\n{jobs:#?}\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a pod of `step` that runs.
    pub(crate) async fn running(&self, step: StepName) -> Pod {
        let since = Instant::now();
        loop {
            let runs = |pod: &Pod| pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running");
            let found = self.pods().await.into_iter().find(|pod| kubelet::step(pod) == step && runs(pod));
            if let Some(pod) = found {
                return pod;
            }
            assert!(since.elapsed() < PATIENCE, "no pod of {step} runs; see {:?}", self.setup.log);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a pod of `step` that runs, and ends it well.
    pub(crate) async fn finish_step(&self, step: StepName) {
        let pod = self.running(step).await;
        kubelet::end(&self.api(), &pod, 0, &kubelet::message(step)).await;
    }

    /// Waits until something holds.
    pub(crate) async fn until_true(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let since = Instant::now();
        while !holds().await {
            assert!(since.elapsed() < PATIENCE, "not {what}; see {:?}", self.setup.log);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The pods that are there.
    pub(crate) async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default()
    }

    /// How many pods of each step there ever were.
    pub(crate) fn pods_started(&self) -> BTreeMap<StepName, usize> {
        self.kubelet.started()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A spec whose output goes to a claim that is made for it.
pub(crate) fn with_claim(spec: &str) -> String {
    let template = "{volumeClaimTemplate: {resources: {requests: {storage: 1Gi}}}}";
    spec.replace("{volume: {claimName: stic, path: coco-6k}}", template)
}

pub(crate) fn phase(status: &RunStatus) -> &str {
    status.condition(SUCCEEDED).map_or("", |condition| condition.reason.as_str())
}

pub(crate) async fn apply<K>(api: &Api<K>, kind: &str, name: &str, spec: &str)
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

async fn install(client: Client) {
    establish(client, stic_crds::schema::all().expect("they are objects").into_iter().map(|(_, crd)| crd))
        .await;
}

/// Installs CRDs and waits until they are served.
pub(crate) async fn establish(client: Client, crds: impl IntoIterator<Item = CustomResourceDefinition>) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for crd in crds {
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
