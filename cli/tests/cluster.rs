//! `kubectl-stic` against a real API server, with the real controller and Kubernetes' own Job controller; only the
//! kubelet is played, and its logs are served as a kubelet serves them.
//!
//! `tests/cluster/cluster.sh --control-plane cargo test -p kubectl-stic --test cluster -- --ignored`
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../operator/tests/pure/common.rs"]
#[expect(dead_code, reason = "the operator's tests use the rest")]
mod common;
#[path = "cluster/kubelet.rs"]
mod kubelet;
#[path = "cluster/world.rs"]
mod world;

use std::process::Stdio;

use serde_json::{Value, json};
use stic_contract::StepName;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make controller-test"]
async fn a_run_is_shown_heard_held_and_run_again() {
    let world = World::new().await;
    let none = world.stic(&["get"]);
    none.ends(0, "");
    assert!(none.err.contains(&format!("No runs found in namespace {}.", world.namespace)), "{}", none.err);
    let missing = world.stic(&["get", "s1/one"]);
    missing.ends(64, "");
    assert!(missing.err.contains("stageonerun/one does not exist in namespace"), "{}", missing.err);

    world.kubelet.hold(StepName::Prepare);
    world.kubelet.hold(StepName::Generate);
    world.stage_one("  preferences: {shards: 2}\n");
    // Before the pod is bound, the scheduler says why it cannot be.
    world
        .until("a pod of prepare runs", |seen| running(seen, "prepare") == 1 && phase(seen) == "Preparing")
        .await;
    let early = world.stic(&["rerun", "s1/one"]);
    assert_eq!(early.code, 64, "{early:?}");
    assert!(early.err.contains("is not over (Preparing); wait for it, or add --force"), "{}", early.err);
    world.kubelet.release(StepName::Prepare);
    world.until("both shards run", |seen| running(seen, "generate") == 2).await;

    // What a person sees of it.
    let tree = world.stic(&["get", "StageOneRun/one"]);
    assert!(tree.out.starts_with("stageonerun/one  Generating"), "{}", tree.out);
    for part in [
        "Succeeded=Unknown  InputsReady=True  Suspended=False",
        "├─ prepare   Succeeded  1 attempt",
        "exit 0",
        "shard 1",
        "artifacts",
    ] {
        assert!(tree.out.contains(part), "{part:?} is not in: {}", tree.out);
    }
    assert!(world.stic(&["get"]).out.contains("stageonerun/one  Generating"));

    // What its pods say.
    let all = world.stic(&["logs", "s1/one"]);
    let twice = |line: &str| format!("{line}\n{line} and says so\n");
    let shards = ["[generate 0] generate 0 begins", "[generate 1] generate 1 begins"];
    all.ends(0, &shards.map(twice).concat());
    world.stic(&["logs", "s1/one", "--shard", "1"]).ends(0, &twice("generate 1 begins"));
    let prepare = ["prepare 0 begins", "prepare 0 ends"].map(twice).concat();
    world.stic(&["logs", "s1/one", "--step", "prepare"]).ends(0, &prepare);
    let none = world.stic(&["logs", "s1/one", "--previous"]);
    assert!(none.code == 64 && none.err.contains("leave out --previous"), "{none:?}");

    // The kubelet cuts each log off once; nothing is lost or said twice.
    let following =
        world.command(&["logs", "s1/one", "-f"]).stdout(Stdio::piped()).spawn().expect("it starts");
    world.kubelet.until_heard(2).await;
    world.stic(&["suspend", "s1/one"]).ends(
        0,
        "stageonerun/one suspended: its pods save and end, and no step starts until it is resumed\n",
    );
    world.stic(&["suspend", "s1/one"]).ends(0, "stageonerun/one is suspended already\n");
    world.until("held", |seen| phase(seen) == "Suspended" && running(seen, "generate") == 0).await;
    assert!(world.stic(&["get", "s1/one"]).out.starts_with("stageonerun/one  Suspended"));
    world.stic(&["resume", "s1/one"]).ends(0, "stageonerun/one resumed: it goes on from where it was\n");
    world.stic(&["resume", "s1/one"]).ends(0, "stageonerun/one is not suspended\n");
    world.until("both shards run again", |seen| running(seen, "generate") == 2).await;
    world.kubelet.release(StepName::Generate);
    let done = world.until("done", |seen| phase(seen) == "Succeeded").await;
    let heard = following.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&heard.stdout);
    assert_eq!(heard.status.code(), Some(0), "{text}");
    let said = |line: &str| text.lines().filter(|other| *other == line).count();
    assert_eq!(said("[prepare] prepare 0 ends"), 0, "it was over before: {text}");
    for line in shards {
        assert_eq!(said(line), 2, "of the pod before and after it was held: {text}");
    }
    for line in [
        "[generate 0] generate 0 ends",
        "[generate 1] generate 1 ends",
        "[train] train 0 begins",
        "[train] train 0 ends",
    ] {
        assert_eq!((said(line), said(&format!("{line} and says so"))), (1, 1), "{line} in: {text}");
    }

    // And again.
    assert_eq!(done["run"]["status"]["artifacts"].as_array().map(Vec::len), Some(3), "{done:#}");
    world
        .stic(&["suspend", "s1/one"])
        .ends(0, "stageonerun/one is over (Succeeded): there is nothing to hold\n");
    world.stic(&["rerun", "s1/one"]).ends(0, "stageonerun/one runs again (rerun 1)\n");
    let again = world
        .until("done again", |seen| phase(seen) == "Succeeded" && seen["run"]["status"]["rerun"] == 1)
        .await;
    assert_eq!(again["jobs"].as_array().map(Vec::len), Some(6));
    let tree = world.stic(&["get", "s1/one"]).out;
    assert!(tree.contains("rerun 1") && tree.contains("earlier"), "{tree}");
}

/// What changes the cluster itself under all others: these run one by one, when the others are done.
mod alone {
    use super::*;
    use std::fs::File;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a cluster: make controller-test"]
    async fn a_log_is_followed_while_the_api_server_is_restarted() {
        let world = World::new().await;
        world.kubelet.hold(StepName::Train);
        world.stage_one("");
        world.until("it trains", |seen| running(seen, "train") == 1).await;
        let folder = tempfile::tempdir().expect("a folder");
        let told = folder.path().join("stderr");
        let following = world
            .command(&["logs", "s1/one", "-f"])
            .stdout(Stdio::piped())
            .stderr(File::create(&told).expect("a file"))
            .spawn()
            .expect("it starts");
        world.kubelet.until_heard(1).await;
        component("kill");
        let away = world.stic(&["get", "s1/one"]);
        assert!(away.code == 69 && away.err.contains("cannot be reached"), "{away:?}");
        // The client asks some times more by itself before it says so.
        until("told", || std::fs::read_to_string(&told).is_ok_and(|told| told.contains("waits for it")))
            .await;
        component("start");
        until("back", || world.stic(&["get", "s1/one"]).code == 0).await;
        world.kubelet.release(StepName::Train);
        let heard = following.wait_with_output().expect("it ends");
        let (out, err) = (String::from_utf8_lossy(&heard.stdout), std::fs::read_to_string(&told));
        assert_eq!(heard.status.code(), Some(0), "{out}\n{err:?}");
        let twice = |line: &str| format!("[train] {line}\n[train] {line} and says so\n");
        assert_eq!(out, ["train 0 begins", "train 0 ends"].map(twice).concat(), "{err:?}");
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
#[ignore = "needs a cluster: make controller-test"]
async fn what_a_cluster_refuses_is_told_with_the_mend() {
    let world = World::new().await;
    let unknown = world.stic(&["get", "--context", "elsewhere"]);
    assert!(unknown.code == 64 && unknown.err.contains("--context"), "{unknown:?}");
    let gone = world.stic(&["get", "--kubeconfig", "/nonexistent/kubeconfig"]);
    assert!(gone.code == 64 && gone.err.contains("/nonexistent/kubeconfig"), "{gone:?}");
    let unreachable = world.with_server("https://127.0.0.1:1", "a", &["get"]);
    assert!(unreachable.code == 69 && unreachable.err.contains("cannot be reached"), "{unreachable:?}");
    let stranger = world.with_server(&world.server(), "nobody", &["get", "s1/one"]);
    assert!(stranger.code == 69 && stranger.err.contains("log in again"), "{stranger:?}");
}

fn phase(seen: &Value) -> &str {
    let conditions = seen["run"]["status"]["conditions"].as_array();
    let succeeded = conditions.into_iter().flatten().find(|condition| condition["type"] == "Succeeded");
    succeeded.and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
}

fn running(seen: &Value, step: &str) -> usize {
    let pods = seen["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["metadata"]["labels"]["stic.dev/step"] == json!(step))
        .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null())
        .count()
}
