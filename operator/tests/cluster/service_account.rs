//! The ServiceAccount of the operator, with exactly the RBAC rules of the chart.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The namespace of the release, and of its lease.
pub(crate) const NAMESPACE: &str = "stic-system";
/// The release, its account and its lease.
pub(crate) const NAME: &str = "stic-operator";

/// A token of the account. The chart is applied once for a cluster of `cluster.sh`: nextest runs every test in a process
/// of its own, and the first one leaves the token to the others.
async fn token(client: &Client) -> &'static str {
    static TOKEN: OnceCell<String> = OnceCell::const_new();
    TOKEN
        .get_or_init(|| async {
            if std::env::var_os("CLUSTER_RUN").is_none() {
                return install(client.clone()).await;
            }
            let folder = folder("account");
            let lock = File::create(folder.join("lock")).expect("a lock");
            lock.lock().expect("the lock");
            let path = folder.join("token");
            if let Ok(token) = std::fs::read_to_string(&path) {
                return token;
            }
            let token = install(client.clone()).await;
            std::fs::write(path, &token).expect("a file");
            token
        })
        .await
}

/// A kubeconfig of the account, for `server` or for the API server of the cluster.
pub(crate) async fn kubeconfig(client: &Client, server: Option<&str>) -> PathBuf {
    let token = token(client).await;
    let given = std::env::var("KUBECONFIG").expect("KUBECONFIG names a cluster");
    let text = std::fs::read_to_string(given).expect("KUBECONFIG is a file");
    let mut config: Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"] = json!({"token": token});
    let mut name = "own".to_owned();
    if let Some(server) = server {
        config["clusters"][0]["cluster"] = json!({"server": server});
        name = server.chars().filter(char::is_ascii_alphanumeric).collect();
    }
    // A file for each operator, so that none reads a file that is being written for another.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder("kubeconfig").join(format!("{NAME}-{}-{name}-{count}", std::process::id()));
    std::fs::write(&path, config.to_string()).expect("a file");
    path
}

/// A folder that is deleted with the cluster, or kept with its logs.
pub(crate) fn folder(name: &str) -> PathBuf {
    let run = std::env::var_os("CLUSTER_RUN").map(PathBuf::from);
    let folder = run.unwrap_or_else(|| std::env::temp_dir().join("stic-cluster-tests")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

async fn install(client: Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let parameters = PatchParams::apply("test");
    namespaces.patch(NAMESPACE, &parameters, &Patch::Apply(&namespace)).await.expect("a namespace");

    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/stic-operator");
    let mut helm = Command::new("helm");
    helm.args(["template", NAME]).arg(chart).args(["--namespace", NAMESPACE]);
    helm.args(["--show-only", "templates/serviceaccount.yaml", "--show-only", "templates/rbac.yaml"]);
    let rendered = stdout_of("helm template", helm.output());
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["apply", "--namespace", NAMESPACE, "--filename", "-"]);
    let mut applying =
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
    applying.stdin.take().expect("it is piped").write_all(&rendered).expect("kubectl reads");
    stdout_of("kubectl apply", applying.wait_with_output());

    // The authorizer watches the rules, and would reject a request that comes before it has them.
    for review in [
        json!({"group": "kueue.x-k8s.io", "resource": "workloads", "verb": "patch", "namespace": "default"}),
        json!({"group": "coordination.k8s.io", "resource": "leases", "verb": "update", "name": NAME, "namespace": NAMESPACE}),
    ] {
        let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{NAME}"), "resourceAttributes": review}}))
        .expect("a review");
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        for tries in 0.. {
            let answer = api.create(&PostParams::default(), &review).await.expect("an answer");
            if answer.status.is_some_and(|status| status.allowed) {
                break;
            }
            assert!(tries < 300, "the account may not {:?}", review.spec);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
    // Longer than any run of the tests; without it the token is valid for an hour.
    let a_day = json!({"spec": {"audiences": [], "expirationSeconds": 86_400}});
    let request: TokenRequest = serde_json::from_value(a_day).expect("a TokenRequest");
    let response =
        accounts.create_token_request(NAME, &PostParams::default(), &request).await.expect("a token");
    response.status.expect("it is issued").token.expect("it is in it")
}

fn stdout_of(what: &str, output: std::io::Result<Output>) -> Vec<u8> {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}; run this inside cluster.sh"));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
