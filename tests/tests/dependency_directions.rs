//! `contract <- crds <- operator <- cli`, `contract <- trainer <- cli`, `tests -> all`; the operator never sees
//! candle, the trainer never sees kube, the contract sees neither.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Who may depend on whom, directly.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("stic-contract", &[]),
    ("stic-crds", &["stic-contract"]),
    ("stic-operator", &["stic-contract", "stic-crds"]),
    ("stic-trainer", &["stic-contract"]),
    ("kubectl-stic", &["stic-contract", "stic-crds", "stic-operator", "stic-trainer"]),
    ("stic-tests", &["stic-contract", "stic-crds", "stic-operator", "stic-trainer", "kubectl-stic"]),
];

/// What must not be reached from a room, however indirectly.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("stic-contract", &["kube", "k8s-openapi", "candle-core", "tokio"]),
    ("stic-crds", &["candle-core"]),
    ("stic-operator", &["candle-core", "candle-nn", "tokenizers"]),
    ("stic-trainer", &["kube", "kube-core", "k8s-openapi"]),
];

struct Graph {
    /// Package name by id.
    names: BTreeMap<String, String>,
    /// Normal and build dependencies by id.
    edges: BTreeMap<String, BTreeSet<String>>,
}

fn graph() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let names = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let shipped = |dependency: &&Value| {
        dependency["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"] != "dev")
    };
    let edges = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            let to = node["deps"].as_array().expect("deps").iter().filter(shipped).map(|d| text(&d["pkg"]));
            (text(&node["id"]), to.collect())
        })
        .collect();
    Graph { names, edges }
}

impl Graph {
    fn id(&self, name: &str) -> &str {
        self.names.iter().find(|(_, n)| *n == name).map(|(id, _)| id.as_str()).expect("a workspace member")
    }

    fn reached_from(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.id(name)];
        while let Some(id) = open.pop() {
            for to in &self.edges[id] {
                if seen.insert(to.as_str()) {
                    open.push(to);
                }
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

#[test]
fn rooms_depend_one_way() {
    let graph = graph();
    let rooms: BTreeSet<&str> = ALLOWED.iter().map(|(room, _)| *room).collect();
    for (room, allowed) in ALLOWED {
        for to in &graph.edges[graph.id(room)] {
            let to = graph.names[to].as_str();
            assert!(!rooms.contains(to) || allowed.contains(&to), "{room} may not depend on {to}");
        }
    }
}

#[test]
fn the_operator_never_sees_candle_and_the_trainer_never_sees_kube() {
    let graph = graph();
    for (room, forbidden) in FORBIDDEN {
        let reached = graph.reached_from(room);
        for name in forbidden {
            assert!(!reached.contains(name), "{room} reaches {name}");
        }
    }
}
