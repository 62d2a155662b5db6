//! A namespace of a control plane, with the controller in this process and a fake kubelet.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::Value;
use stic_operator::process;
use stic_operator::settings::{Args, GivenSettings, Settings};
use tempfile::TempDir;

use crate::common::STAGE_ONE;
use crate::fake_kubelet::FakeKubelet;

const TIMEOUT: Duration = Duration::from_secs(600);
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");

pub(crate) struct TestCluster {
    pub namespace: String,
    pub kubelet: FakeKubelet,
    folder: TempDir,
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    #[track_caller]
    pub(crate) fn expect_output(&self, code: i32, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, out), "{}", self.err);
    }
}

impl TestCluster {
    pub(crate) async fn new() -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        let folder = tempfile::tempdir().expect("a folder");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        kubectl(&["apply", "--server-side", "--force-conflicts", "-f", CRDS], "");
        kubectl(
            &[
                "wait",
                "--for=condition=Established",
                "crd/stageoneruns.stic.dev",
                "crd/stagetworuns.stic.dev",
                "crd/evaluationruns.stic.dev",
            ],
            "",
        );
        kubectl(&["create", "namespace", &namespace], "");
        let claim = |name: &str| {
            format!(
                "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteMany], resources: {{requests: {{storage: 1Gi}}}}}}}}"
            )
        };
        let claims = ["models", "coco", "stic"].map(claim).join("\n---\n");
        kubectl(&["apply", "--namespace", &namespace, "-f", "-"], &claims);
        let given = GivenSettings {
            trainer_image: Some("registry/trainer@sha256:00".into()),
            namespaces: Some(vec![namespace.clone()]),
            listen: Some(([127, 0, 0, 1], 0).into()),
            leader_election: Some(false),
            progress_seconds: Some(1),
            ..GivenSettings::default()
        };
        let settings = Settings::resolve(Args { config: None, given }).expect("settings");
        tokio::spawn(async move { process::run(settings).await.expect("the operator runs") });
        Self { kubelet: FakeKubelet::start(client, &namespace, folder.path()).await, namespace, folder }
    }

    pub(crate) fn stage_one(&self, extra: &str) {
        let run = format!(
            "apiVersion: stic.dev/v1alpha1\nkind: StageOneRun\nmetadata: {{name: one}}\nspec:{STAGE_ONE}{extra}"
        );
        kubectl(&["apply", "--namespace", &self.namespace, "-f", "-"], &run);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
        command.args(args).args(["--namespace", &self.namespace]);
        command
    }

    pub(crate) fn stic(&self, args: &[&str]) -> CommandOutput {
        output(&mut self.command(args))
    }

    /// Runs a command with another server and token.
    pub(crate) fn with_server(&self, server: &str, token: &str, args: &[&str]) -> CommandOutput {
        let path = self.folder.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: \"{server}\", insecure-skip-tls-verify: true}}}}]\nusers: [{{name: a, user: {{token: {token}}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\ncurrent-context: a\n"
        );
        std::fs::write(&path, text).expect("a file");
        output(self.command(args).arg("--kubeconfig").arg(&path))
    }

    pub(crate) fn server(&self) -> String {
        kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"], "")
    }

    /// Repeats a command until its output meets `condition`: the operator may learn a moment later than the test that a
    /// pod runs.
    pub(crate) async fn until_output(&self, args: &[&str], condition: impl Fn(&str) -> bool) -> String {
        let since = Instant::now();
        loop {
            let output = self.stic(args).out;
            if condition(&output) {
                return output;
            }
            assert!(since.elapsed() < TIMEOUT, "{args:?} still prints: {output}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until the output of `kubectl-stic get -o json` meets `condition`.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let output = self.stic(&["get", "s1/one", "-o", "json"]);
            let state: Value = serde_json::from_str(&output.out).expect("JSON");
            if condition(&state) {
                return state;
            }
            assert!(since.elapsed() < TIMEOUT, "not {what}: {}", self.stic(&["get", "s1/one"]).out);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn output(command: &mut Command) -> CommandOutput {
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

fn kubectl(args: &[&str], input: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl is on PATH");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "kubectl {args:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
