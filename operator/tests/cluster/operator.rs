//! The operator process, with the ServiceAccount of the chart.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::service_account;

#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub namespace: String,
    pub kubeconfig: PathBuf,
    pub listen: SocketAddr,
    pub log: PathBuf,
    pub trainer_image: String,
    /// The name of the replica in the leader election; absent without election.
    pub candidate: Option<String>,
    /// The failpoint at which it dies.
    pub failpoint: Option<String>,
}

pub(crate) struct Operator {
    child: Child,
    listen: SocketAddr,
}

impl Operator {
    pub(crate) fn start(setup: &Setup) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(&setup.log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_stic-operator"));
        command
            .args(["--namespace", &setup.namespace, "--listen", &setup.listen.to_string()])
            .args(["--trainer-image", &setup.trainer_image])
            .args(["--lease-namespace", service_account::NAMESPACE, "--lease-name", service_account::NAME])
            .args(["--leader-election", if setup.candidate.is_some() { "true" } else { "false" }])
            .args(["--log-format", "text", "--progress-seconds", "1"])
            .args(["--log-level", "stic_operator=debug,info"])
            .env("KUBECONFIG", &setup.kubeconfig)
            .env_remove("STIC_FAILPOINT")
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(identity) = &setup.candidate {
            command.args(["--identity", identity]);
        }
        if let Some(failpoint) = &setup.failpoint {
            command.env("STIC_FAILPOINT", failpoint);
        }
        Self { child: command.spawn().expect("the operator starts"), listen: setup.listen }
    }

    /// The exit status, if the process has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the status of a child")
    }

    /// Waits until the process exits.
    pub(crate) async fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(since.elapsed() < patience, "the operator did not exit");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends SIGTERM, as the kubelet does.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// The status line and the body of a response; absent while the operator does not respond.
    pub(crate) async fn get(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.listen).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    /// The sum of a metric's samples that have all of `labels`, each written as `name="value"`; absent while the operator
    /// does not respond.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Option<u64> {
        let (_, text) = self.get("/metrics").await?;
        let samples = text.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (found, of) = sample.split_once('{').unwrap_or((sample, ""));
            (found == name && labels.iter().all(|label| of.contains(label)))
                .then(|| value.parse::<u64>().ok())?
        });
        Some(samples.sum())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
