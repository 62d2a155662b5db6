//! A namespace with claims, the CRDs, and an operator that watches it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use tokio::sync::OnceCell;

use crate::kubelet::{Kubelet, Script};
use crate::operator::{Operator, Setup};
use crate::service_account;

/// Longer than any delay of Kubernetes that a test depends on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// The trainer image in the settings of every operator.
pub(crate) const TRAINER_IMAGE: &str = "registry/trainer@sha256:00";

pub(crate) struct TestEnv {
    pub client: Client,
    pub namespace: String,
    /// The address of the pods.
    pub address: String,
    pub setup: Setup,
    operator: Option<Operator>,
    kubelet: Kubelet,
}

static CRDS: OnceCell<()> = OnceCell::const_new();

impl TestEnv {
    /// A namespace whose pods end as `script` says.
    pub(crate) async fn new(script: impl Script) -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        CRDS.get_or_init(|| install(client.clone())).await;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t-{}-{count}", std::process::id());
        // Every address in 127/8 is this machine. Each process of a test run gets its own.
        let process = std::process::id();
        let address = format!("127.{}.{}.{}", 64 + process / 256 % 128, process % 256, 1 + count % 254);
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a Namespace");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        // Without it the Job controller cannot create pods, and waits longer after each attempt.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        until("an account for pods", async || accounts.get_opt("default").await.expect("an answer")).await;
        let setup = Setup {
            namespace: namespace.clone(),
            kubeconfig: service_account::kubeconfig(&client, None).await,
            listen: SocketAddr::new(address.parse().expect("an address"), 8081),
            log: service_account::folder("log").join(format!("operator-{namespace}.log")),
            trainer_image: TRAINER_IMAGE.into(),
            candidate: None,
            failpoint: None,
        };
        let env = Self {
            kubelet: Kubelet::start(client.clone(), &namespace, address.clone(), script),
            client,
            namespace,
            address,
            setup,
            operator: None,
        };
        for claim in ["models", "coco", "llava", "stic"] {
            env.claim(claim).await;
        }
        env
    }

    pub(crate) fn start(&mut self) {
        self.operator = Some(Operator::start(&self.setup));
    }

    /// The operator that was started.
    pub(crate) fn operator(&self) -> &Operator {
        self.operator.as_ref().expect("it was started")
    }

    pub(crate) fn kill(&mut self) {
        self.operator = None;
    }

    /// How many reconciliations of StageOneRuns have succeeded.
    pub(crate) async fn reconciliations(&self) -> u64 {
        let labels = ["kind=\"StageOneRun\"", "result=\"ok\""];
        until("responding to /metrics", async || {
            self.operator().metric("stic_reconciles_total", &labels).await
        })
        .await
    }

    /// Creates a claim that names a volume (`volume_of`), which may never exist. If it named none, Kubernetes would publish an
    /// event every 15 seconds that nothing binds it; hundreds of those would be a sixth of all requests.
    pub(crate) async fn claim(&self, name: &str) {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": self.volume_of(name)},
        }))
        .expect("a claim");
        self.api().create(&PostParams::default(), &claim).await.expect("a claim");
    }

    /// The name of the volume of a claim.
    pub(crate) fn volume_of(&self, claim: &str) -> String {
        format!("{}-{claim}", self.namespace)
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn jobs(&self) -> Vec<Job> {
        self.api::<Job>().list(&ListParams::default()).await.expect("Jobs").items
    }

    /// Waits until a condition holds.
    pub(crate) async fn until_true(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let what = format!("{what}; see {:?}", self.setup.log);
        until(&what, async || holds().await.then_some(())).await;
    }

    /// How many pods of each step were ever started.
    pub(crate) fn pods_started(&self) -> BTreeMap<StepName, usize> {
        self.kubelet.started()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        self.kill();
    }
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
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Waits until `look` returns something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "not {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
