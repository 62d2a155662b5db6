//! What the operator lists and watches, and what it says while it cannot.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::kubelet::PodAction;
use crate::node::from;
use crate::runs::phase;
use crate::service_account;
use crate::test_env::{TestEnv, until};

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn readiness_names_what_cannot_be_listed_until_the_rights_are_granted() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let accounts = env.api::<ServiceAccount>();
    let account: ServiceAccount = from(json!({"metadata": {"name": "powerless"}}));
    accounts.create(&PostParams::default(), &account).await.expect("an account");
    let request = TokenRequest::default();
    let token = accounts.create_token_request("powerless", &PostParams::default(), &request).await;
    let token = token.expect("a token").status.expect("it is issued").token;
    let text = std::fs::read_to_string(&env.setup.kubeconfig).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["users"][0]["user"] = json!({"token": token});
    let path = service_account::folder("kubeconfig").join(format!("powerless-{}", env.namespace));
    std::fs::write(&path, config.to_string()).expect("a file");
    env.setup.kubeconfig = path;
    env.start();
    let everything = [
        "stageoneruns.stic.dev",
        "stagetworuns.stic.dev",
        "evaluationruns.stic.dev",
        "jobs.batch",
        "pods",
        "persistentvolumeclaims",
    ];
    let body = until("not ready", async || {
        let (status, body) = env.operator().get("/readyz").await?;
        let named = |resource| {
            let line =
                body.lines().find(|line| line.starts_with(&format!("cannot list {resource} in namespace ")));
            line.is_some_and(|line| line.contains("powerless"))
        };
        (status.contains(" 503 ") && everything.iter().all(named)).then_some(body)
    })
    .await;
    assert!(body.contains("rbac.create"), "{body}");
    let broken = async || env.operator().metric("stic_watch_broken", &["resource=\"jobs.batch\""]).await;
    until("broken", async || (broken().await? == 1).then_some(())).await;
    let binding: RoleBinding = from(json!({"metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": service_account::NAME},
        "subjects": [{"kind": "ServiceAccount", "name": "powerless", "namespace": env.namespace}]}));
    env.api().create(&PostParams::default(), &binding).await.expect("a binding");
    until("ready", async || env.operator().get("/readyz").await?.0.contains(" 200 ").then_some(())).await;
    until("no longer broken", async || (broken().await? == 0).then_some(())).await;
    env.one("one", "").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let ended = async |name: &str| env.operator().metric(&format!("{name}_count"), &[]).await;
    // The operator counts after it has written the status.
    env.until_true("run counted", async || ended("stic_run_duration_seconds").await == Some(1)).await;
    env.until_true("steps counted", async || ended("stic_step_duration_seconds").await == Some(3)).await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn one_operator_watches_several_namespaces() {
    let other = TestEnv::new(|_, _| PodAction::Succeed).await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.setup.namespace = format!("{},{}", env.namespace, other.namespace);
    env.one("early", "").await;
    env.start();
    other.one("one", "").await;
    env.one("one", "").await;
    other.two("two", "one").await;
    for (env, run) in [(&env, "early"), (&env, "one"), (&other, "one")] {
        env.until_one(run, "done", |status| phase(status) == "Succeeded").await;
    }
    other.until_two("two", "done", |status| phase(status) == "Succeeded").await;
    let owners = other.jobs().await.iter().flat_map(|job| job.owner_references().to_vec()).count();
    assert_eq!(owners, 6, "each run has its own Jobs");
}
