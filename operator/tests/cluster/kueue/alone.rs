//! Kueue with other settings, or down. These tests run one at a time.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stic_contract::StepName::{Generate, Prepare, Train};
use stic_crds::ConditionType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::QUEUE;
use crate::kubelet::PodAction;
use crate::runs::{is_any, phase, text};
use crate::service_account::{NAME, NAMESPACE};
use crate::test_env::{TestEnv, until};

/// Kueue with additional settings, which follow its feature gates, until this is dropped.
struct Settings {
    path: PathBuf,
    original: String,
}

impl Settings {
    async fn with(more: &str) -> Self {
        let path = PathBuf::from(std::env::var_os("KUEUE_CONFIG").expect("kueue.sh sets it"));
        let original = std::fs::read_to_string(&path).expect("a configuration");
        let settings = Self { path, original };
        std::fs::write(&settings.path, format!("{}{more}", settings.original)).expect("a file");
        component("kill");
        component("start");
        ready().await;
        settings
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, &self.original);
        component("kill");
        component("start");
    }
}

fn component(what: &str) {
    let done = Command::new("component.sh").args([what, "kueue"]).status();
    assert!(done.expect("cluster.sh has it on PATH").success());
}

/// Waits until Kueue is ready, which a test before this one may have restarted.
async fn ready() {
    let url = std::env::var("KUEUE_READY").expect("kueue.sh sets it");
    let address = url.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    until("ready", async || {
        let mut stream = TcpStream::connect(&address).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.lines().next()?.contains(" 200 ").then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_without_a_queue_waits_where_kueue_manages_all_jobs() {
    let _settings = Settings::with("manageJobsWithoutQueueName: true\n").await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one("one", "").await;
    let workload = env.workload("one").await.name_any();
    env.queued("one", &["Kueue manages Jobs without a queue", &workload, "label the run with"]).await;
    // Nobody fights: reconciled again and again, the operator writes nothing.
    let job = env.jobs_of("one").await.remove(0);
    let changes = async || {
        let writes =
            |write: &'static str| async { env.operator().metric("stic_api_writes_total", &[write]).await };
        (writes("write=\"patch-job\"").await, writes("write=\"patch-workload\"").await)
    };
    let (writes, before) = (changes().await, env.reconciliations().await);
    for team in ["vision", "speech", "text"] {
        env.edit("one", json!({"metadata": {"labels": {"team": team}}})).await;
    }
    env.until_true("reconciled again", async || env.reconciliations().await > before).await;
    assert_eq!(changes().await, writes);
    let after = env.jobs_of("one").await.remove(0);
    assert_eq!((after.uid(), after.metadata.generation), (job.uid(), Some(1)));
    env.suspend("one").await;
    env.resume("one").await;
    env.queued("one", &["Kueue manages Jobs without a queue"]).await;
    assert!(env.pods_of("one").await.is_empty());
    // What the message advises.
    env.move_to("gpu", "one").await;
    env.succeeds_without_retries("one").await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_step_that_is_created_while_kueue_is_down_follows_when_it_is_back() {
    ready().await;
    let mut env = TestEnv::new(|step, _| match step {
        Prepare => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.pod("one", Prepare, 0).await;
    // Without Kueue's webhook for pods, the Job would not complete.
    env.kill();
    env.finish("one", Prepare, 0, 0, "").await;
    env.until_true("complete", async || is_any(&env.jobs_of("one").await[0], &["Complete"])).await;
    component("kill");
    env.start();
    let status = env
        .until_one("one", "told that a webhook fails", |status| {
            text(status, ConditionType::Succeeded).contains("mjob.kb.io")
        })
        .await;
    assert_eq!(status.succeeded(), None, "it goes on");
    env.expect_calm(&[(Prepare, 1)]).await;
    component("start");
    env.succeeds_without_retries("one").await;
}

/// Evicts after seconds, requeues once, and gives up at the second time.
const NOT_READY: &str = "
waitForPodsReady:
  timeout: 8s
  requeuingStrategy: {backoffLimitCount: 1, backoffBaseSeconds: 1, backoffMaxSeconds: 1}
";

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_whose_pods_do_not_become_ready_fails_with_their_last_problem() {
    let _settings = Settings::with(NOT_READY).await;
    let mut env = TestEnv::new(|step, count| match (step, count) {
        (Prepare, 1 | 2) => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    for _ in 0..2 {
        let pod = until("a pod", async || env.pods_of("one").await.into_iter().next()).await;
        let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let status = json!({"phase": "Pending", "containerStatuses": [{"name": "trainer", "image": "x", "imageID": "",
            "ready": false, "restartCount": 0, "state": state}]});
        let patch = Patch::Merge(json!({"status": status}));
        env.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a pod");
        env.until_one("one", "without an image", |status| {
            text(status, ConditionType::Succeeded).contains("no such image") && phase(status) != "Queued"
        })
        .await;
        env.until_one("one", "evicted", |status| {
            let message = text(status, ConditionType::Succeeded);
            phase(status) == "WorkloadDeactivated"
                || phase(status) == "Queued"
                    && message.contains("PodsReadyTimeout")
                    && message.contains("no such image")
        })
        .await;
        env.until_true("the pod is gone", async || {
            env.api::<Pod>().get_opt(&pod.name_any()).await.expect("an answer").is_none()
        })
        .await;
    }
    let status = env.until_one("one", "given up", |status| phase(status) == "WorkloadDeactivated").await;
    let message = text(&status, ConditionType::Succeeded);
    for words in ["re-queuing retries", "no such image", "raise spec.retry"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    env.until_true("no Job is left", async || env.jobs_of("one").await.is_empty()).await;
    env.edit("one", json!({"spec": {"retry": 1}})).await;
    env.succeeds("one").await;
    env.expect_calm(&[(Prepare, 3), (Generate, 1), (Train, 1)]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_run_in_a_namespace_that_kueue_does_not_manage_says_so() {
    let _settings = Settings::with("managedJobsNamespaceSelector: {matchLabels: {kueue: managed}}\n").await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 1).await;
    env.start();
    env.one_in("gpu", "one").await;
    let namespace = format!("manages namespace {}", env.namespace);
    env.queued("one", &["Kueue has created no Workload", &namespace]).await;
    env.edit("one", json!({"metadata": {"labels": {QUEUE: null}}})).await;
    env.succeeds_without_retries("one").await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn kueues_granular_reasons_are_explained_too() {
    let _settings = Settings::with("  UnadmittedWorkloadsObservability: true\n").await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 0).await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["ExceedsMaxQuota", "have the quota raised"]).await;
    env.move_to("none", "one").await;
    env.queued("one", &["Misconfigured: LocalQueue none doesn't exist", "create it"]).await;
    env.expect_calm(&[]).await;
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn a_queue_that_dispatches_to_other_clusters_starts_no_pod_here() {
    ready().await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 1).await;
    let (name, queue) = (env.global("remote"), env.global("gpu"));
    let parameters = json!({"apiGroup": "kueue.x-k8s.io", "kind": "MultiKueueConfig", "name": name});
    env.set("MultiKueueConfig", &name, &json!({"spec": {"clusters": ["elsewhere"]}})).await;
    let check = json!({"controllerName": "kueue.x-k8s.io/multikueue", "parameters": parameters});
    env.set("AdmissionCheck", &name, &json!({"spec": check})).await;
    let strategy = json!({"admissionChecksStrategy": {"admissionChecks": [{"name": name}]}});
    env.change("ClusterQueue", &queue, json!({"spec": strategy})).await;
    env.until_true("the queue knows that", async || {
        let queue = env.kueue("ClusterQueue").get(&queue).await.expect("a queue");
        super::is(&queue, "Active", "False")
    })
    .await;
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &[&format!("ClusterQueue {queue} is inactive"), "dispatches Jobs to other clusters"])
        .await;
    let managed_by = env.jobs_of("one").await[0].spec.as_ref().and_then(|spec| spec.managed_by.clone());
    assert_eq!(managed_by.as_deref(), Some("kueue.x-k8s.io/multikueue"));
    // What the message advises.
    env.queue("here", 1).await;
    env.move_to("here", "one").await;
    env.succeeds_without_retries("one").await;
}

/// Applies the rights of the operator with or without those to Kueue's Workloads.
fn rights(kueue: bool) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/stic-operator");
    let mut helm = Command::new("helm");
    helm.args(["template", NAME, chart, "--namespace", NAMESPACE, "--show-only", "templates/rbac.yaml"]);
    helm.args(["--set", &format!("kueue.enabled={kueue}")]).stdout(Stdio::piped());
    let mut rendered = helm.spawn().expect("helm");
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["apply", "--namespace", NAMESPACE, "--filename", "-"]);
    kubectl.stdin(rendered.stdout.take().expect("it is piped")).stdout(Stdio::null());
    assert!(kubectl.status().expect("kubectl").success());
    assert!(rendered.wait().expect("helm").success());
}

struct WithoutRights;

impl Drop for WithoutRights {
    fn drop(&mut self) {
        rights(true);
    }
}

#[tokio::test]
#[ignore = "needs Kueue: make kueue-test"]
async fn without_rights_to_workloads_a_run_names_the_value_that_grants_them() {
    ready().await;
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    env.queue("gpu", 0).await;
    let granted = WithoutRights;
    rights(false);
    env.start();
    env.one_in("gpu", "one").await;
    env.queued("one", &["kueue.enabled to true"]).await;
    env.edit("one", json!({"spec": {"suspend": true}})).await;
    let status = env.until_one("one", "not suspended", |status| phase(status) == "KueueForbidden").await;
    assert!(text(&status, ConditionType::Succeeded).contains("kueue.enabled to true"), "{status:#?}");
    drop(granted);
    env.until_one("one", "suspended", |status| phase(status) == "Suspended").await;
    let workloads = env.workloads().await;
    assert!(workloads.iter().all(|workload| !crate::workloads::active(workload)));
    env.resume("one").await;
    env.queued("one", &["maximum capacity"]).await;
    env.set_quota("gpu", 1).await;
    env.succeeds_without_retries("one").await;
}
