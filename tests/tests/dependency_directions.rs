//! Which crate may depend on which: `contract <- crds <- operator <- cli`, `contract <- evaluation <- trainer`, and `tests` and `xtask`
//! on all of them. The operator never depends on candle, the trainer never on kube, the contract on neither.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The crates of this workspace that a crate may depend on directly.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("stic-contract", &[]),
    ("stic-crds", &["stic-contract"]),
    ("stic-operator", &["stic-contract", "stic-crds"]),
    ("stic-evaluation", &["stic-contract"]),
    ("stic-trainer", &["stic-contract", "stic-evaluation"]),
    ("kubectl-stic", &["stic-contract", "stic-crds", "stic-operator"]),
    ("stic-tests", &["stic-contract", "stic-crds", "stic-operator", "stic-trainer", "kubectl-stic"]),
    (
        "xtask",
        &["stic-contract", "stic-crds", "stic-evaluation", "stic-operator", "stic-trainer", "kubectl-stic"],
    ),
];

/// The packages that a crate must not depend on, however indirectly.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("stic-contract", &["kube", "k8s-openapi", "candle-core", "tokio"]),
    ("stic-crds", &["candle-core"]),
    ("stic-evaluation", &["candle-core", "kube", "tokio"]),
    ("stic-operator", &["candle-core", "candle-nn", "tokenizers"]),
    ("stic-trainer", &["kube", "kube-core", "k8s-openapi"]),
];

struct Graph {
    /// Package name by id.
    names: BTreeMap<String, String>,
    /// Normal and build dependencies by id; those of tests do not count.
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
    let is_shipped = |dependency: &&Value| {
        dependency["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"] != "dev")
    };
    let edges = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            let to =
                node["deps"].as_array().expect("deps").iter().filter(is_shipped).map(|d| text(&d["pkg"]));
            (text(&node["id"]), to.collect())
        })
        .collect();
    Graph { names, edges }
}

impl Graph {
    fn id(&self, name: &str) -> &str {
        self.names.iter().find(|(_, n)| *n == name).map(|(id, _)| id.as_str()).expect("a workspace member")
    }

    fn reachable_from(&self, name: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![self.id(name)];
        while let Some(id) = open.pop() {
            for to in &self.edges[id] {
                if reached.insert(to.as_str()) {
                    open.push(to);
                }
            }
        }
        reached.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

#[test]
fn crates_depend_in_one_direction() {
    let graph = graph();
    let crates: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in ALLOWED {
        for to in &graph.edges[graph.id(name)] {
            let to = graph.names[to].as_str();
            assert!(!crates.contains(to) || allowed.contains(&to), "{name} may not depend on {to}");
        }
    }
}

#[test]
fn the_operator_does_not_depend_on_candle_nor_the_trainer_on_kube() {
    let graph = graph();
    for (name, forbidden) in FORBIDDEN {
        let reached = graph.reachable_from(name);
        for dependency in forbidden {
            assert!(!reached.contains(dependency), "{name} depends on {dependency}");
        }
    }
}
