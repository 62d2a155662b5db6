//! `kubectl-stic` with a real API server, the real controller and Kubernetes' own Job controller. Only the kubelet is
//! fake; it serves logs as a real one does.
//!
//! `tests/cluster/cluster.sh --control-plane cargo test -p kubectl-stic --test cluster -- --ignored`
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../operator/tests/cluster/certificate.rs"]
mod certificate;
#[path = "../../operator/tests/pure/common.rs"]
#[expect(dead_code, reason = "the operator's tests use the rest")]
mod common;
#[path = "cluster/fake_kubelet.rs"]
mod fake_kubelet;
#[path = "cluster/test_cluster.rs"]
mod test_cluster;

use std::process::Stdio;

use serde_json::{Value, json};
use stic_contract::StepName;

use crate::test_cluster::TestCluster;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_is_shown_followed_suspended_resumed_and_rerun() {
    let cluster = TestCluster::new().await;
    let none = cluster.stic(&["get"]);
    none.expect_output(0, "");
    assert!(none.err.contains(&format!("No runs found in namespace {}.", cluster.namespace)), "{}", none.err);
    let missing = cluster.stic(&["get", "s1/one"]);
    missing.expect_output(64, "");
    assert!(missing.err.contains("stageonerun/one does not exist in namespace"), "{}", missing.err);

    cluster.kubelet.hold(StepName::Prepare);
    cluster.kubelet.hold(StepName::Generate);
    cluster.stage_one("  preferences: {shards: 2}\n");
    cluster.until("a pod of prepare runs", |state| running(state, "prepare") == 1).await;
    let early = cluster.stic(&["rerun", "s1/one"]);
    assert_eq!(early.code, 64, "{early:?}");
    // The phase may still be ClaimUnbound: the operator learns a moment later that the pod runs.
    for part in ["stageonerun/one has not finished (", "). Wait for it, or add --force"] {
        assert!(early.err.contains(part), "{part:?} is not in: {}", early.err);
    }
    cluster.kubelet.release(StepName::Prepare);
    cluster.until("both shards run", |state| running(state, "generate") == 2).await;

    let tree = cluster
        .until_output(&["get", "StageOneRun/one"], |tree| tree.starts_with("stageonerun/one  Generating"))
        .await;
    for part in [
        "Succeeded=Unknown  InputsReady=True  Suspended=False",
        "├─ prepare   Succeeded  1 attempt",
        "exit 0",
        "shard 1",
        "artifacts",
    ] {
        assert!(tree.contains(part), "{part:?} is not in: {tree}");
    }
    cluster.until_output(&["get"], |table| table.contains("stageonerun/one  Generating")).await;

    let all = cluster.stic(&["logs", "s1/one"]);
    let twice = |line: &str| format!("{line}\n{line} on stdout\n");
    let shards = ["[generate 0] generate 0 started", "[generate 1] generate 1 started"];
    all.expect_output(0, &shards.map(twice).concat());
    cluster.stic(&["logs", "s1/one", "--shard", "1"]).expect_output(0, &twice("generate 1 started"));
    let prepare = ["prepare 0 started", "prepare 0 ended"].map(twice).concat();
    cluster.stic(&["logs", "s1/one", "--step", "prepare"]).expect_output(0, &prepare);
    let none = cluster.stic(&["logs", "s1/one", "--previous"]);
    assert!(none.code == 64 && none.err.contains("Leave out --previous"), "{none:?}");

    // The kubelet breaks each log off once; nothing is lost or printed twice.
    let following =
        cluster.command(&["logs", "s1/one", "-f"]).stdout(Stdio::piped()).spawn().expect("it starts");
    cluster.kubelet.until_followed(2).await;
    cluster.stic(&["suspend", "s1/one"]).expect_output(
        0,
        "stageonerun/one suspended: its pods save their state and stop, and no step starts until it is resumed\n",
    );
    cluster.stic(&["suspend", "s1/one"]).expect_output(0, "stageonerun/one is already suspended\n");
    cluster
        .until("it is suspended", |state| phase(state) == "Suspended" && running(state, "generate") == 0)
        .await;
    assert!(cluster.stic(&["get", "s1/one"]).out.starts_with("stageonerun/one  Suspended"));
    cluster
        .stic(&["resume", "s1/one"])
        .expect_output(0, "stageonerun/one resumed: it continues from its saved state\n");
    cluster.stic(&["resume", "s1/one"]).expect_output(0, "stageonerun/one is not suspended\n");
    cluster.until("both shards run again", |state| running(state, "generate") == 2).await;
    cluster.kubelet.release(StepName::Generate);
    let done = cluster.until("it succeeds", |state| phase(state) == "Succeeded").await;
    let followed = following.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&followed.stdout);
    assert_eq!(followed.status.code(), Some(0), "{text}");
    let count = |line: &str| text.lines().filter(|other| *other == line).count();
    assert_eq!(count("[prepare] prepare 0 ended"), 0, "it had ended before: {text}");
    for line in shards {
        assert_eq!(count(line), 2, "of the pods before and after the suspension: {text}");
    }
    for line in [
        "[generate 0] generate 0 ended",
        "[generate 1] generate 1 ended",
        "[train] train 0 started",
        "[train] train 0 ended",
    ] {
        assert_eq!((count(line), count(&format!("{line} on stdout"))), (1, 1), "{line} in: {text}");
    }

    assert_eq!(done["run"]["status"]["artifacts"].as_array().map(Vec::len), Some(3), "{done:#}");
    cluster
        .stic(&["suspend", "s1/one"])
        .expect_output(0, "stageonerun/one has finished (Succeeded), so it cannot be suspended\n");
    cluster.stic(&["rerun", "s1/one"]).expect_output(0, "stageonerun/one runs again (rerun 1)\n");
    let again = cluster
        .until("the rerun succeeds", |state| {
            phase(state) == "Succeeded" && state["run"]["status"]["rerun"] == 1
        })
        .await;
    assert_eq!(again["jobs"].as_array().map(Vec::len), Some(6));
    let tree = cluster.stic(&["get", "s1/one"]).out;
    assert!(tree.contains("rerun 1") && tree.contains("earlier"), "{tree}");
}

/// Tests that change the cluster for all others. They run one by one, after the others.
mod alone {
    use super::*;
    use std::fs::File;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a control plane: make controller-test"]
    async fn a_log_is_followed_while_the_api_server_is_restarted() {
        let cluster = TestCluster::new().await;
        cluster.kubelet.hold(StepName::Train);
        cluster.stage_one("");
        cluster.until("it trains", |state| running(state, "train") == 1).await;
        let folder = tempfile::tempdir().expect("a folder");
        let stderr = folder.path().join("stderr");
        let following = cluster
            .command(&["logs", "s1/one", "-f"])
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).expect("a file"))
            .spawn()
            .expect("it starts");
        cluster.kubelet.until_followed(1).await;
        component("kill");
        let away = cluster.stic(&["get", "s1/one"]);
        assert!(away.code == 69 && away.err.contains("cannot be reached"), "{away:?}");
        // The client retries a few times by itself before it reports the failure.
        until("reported", || std::fs::read_to_string(&stderr).is_ok_and(|text| text.contains("Retrying")))
            .await;
        component("start");
        until("reachable again", || cluster.stic(&["get", "s1/one"]).code == 0).await;
        cluster.kubelet.release(StepName::Train);
        let followed = following.wait_with_output().expect("it ends");
        let (out, err) = (String::from_utf8_lossy(&followed.stdout), std::fs::read_to_string(&stderr));
        assert_eq!(followed.status.code(), Some(0), "{out}\n{err:?}");
        let twice = |line: &str| format!("[train] {line}\n[train] {line} on stdout\n");
        assert_eq!(out, ["train 0 started", "train 0 ended"].map(twice).concat(), "{err:?}");
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let since = Instant::now();
        while !holds() {
            assert!(since.elapsed() < Duration::from_secs(120), "not {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn component(what: &str) {
        let done = Command::new("component.sh").args([what, "kube-apiserver"]).status();
        assert!(done.expect("cluster.sh has it on PATH").success());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn errors_of_the_cluster_are_reported_with_a_fix() {
    let cluster = TestCluster::new().await;
    let unknown = cluster.stic(&["get", "--context", "elsewhere"]);
    assert!(unknown.code == 64 && unknown.err.contains("--context"), "{unknown:?}");
    let gone = cluster.stic(&["get", "--kubeconfig", "/nonexistent/kubeconfig"]);
    assert!(gone.code == 64 && gone.err.contains("/nonexistent/kubeconfig"), "{gone:?}");
    let unreachable = cluster.with_server("https://127.0.0.1:1", "a", &["get"]);
    assert!(unreachable.code == 69 && unreachable.err.contains("cannot be reached"), "{unreachable:?}");
    let stranger = cluster.with_server(&cluster.server(), "nobody", &["get", "s1/one"]);
    assert!(stranger.code == 69 && stranger.err.contains("Log in again"), "{stranger:?}");
}

fn phase(state: &Value) -> &str {
    let conditions = state["run"]["status"]["conditions"].as_array();
    let succeeded = conditions.into_iter().flatten().find(|condition| condition["type"] == "Succeeded");
    succeeded.and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
}

fn running(state: &Value, step: &str) -> usize {
    let pods = state["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["metadata"]["labels"]["stic.dev/step"] == json!(step))
        .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null())
        .count()
}
