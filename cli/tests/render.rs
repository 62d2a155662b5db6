//! `kubectl-stic render`, compared to snapshots: a change of a snapshot is a change of what runs on clusters.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;
use stic_contract::{RunConfig, StepName};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn render(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    // `render` must not contact a cluster.
    command.arg("render").args(args).current_dir(ROOT).env("KUBECONFIG", "/nonexistent");
    command.output().expect("it runs")
}

#[track_caller]
fn render_ok(args: &[&str]) -> String {
    let output = render(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    all.into_iter().filter(|document| !document.is_null()).collect()
}

#[test]
fn the_quickstart() {
    insta::assert_snapshot!("stage-one", render_ok(&["-f", "examples/quickstart/stage-one.yaml"]));
    let both = ["-f", "examples/quickstart/stage-one.yaml", "-f", "examples/quickstart/stage-two.yaml"];
    insta::assert_snapshot!("stage-two-train", render_ok(&[&both[..], &["--step", "train"]].concat()));
}

#[test]
fn every_example_can_be_rendered_and_run_configs_of_prepare_are_complete() {
    for folder in ["examples/quickstart", "examples/paper/base", "examples/ablations"] {
        let text = render_ok(&[
            "-f",
            folder,
            "--trainer-image",
            "registry/trainer@sha256:00",
            "--trainer-gpu-image",
            "registry/cuda@sha256:00",
        ]);
        let documents = documents(&text);
        let of = |kind: &str| documents.iter().filter(|it| it["kind"] == kind).count();
        assert!(of("Job") > 0 && of("Job") == of("ConfigMap"), "{folder}: {} Jobs", of("Job"));
        assert!(!text.contains("<trainer image"), "{folder}");
        for map in documents.iter().filter(|it| it["kind"] == "ConfigMap") {
            let config = map["data"]["run-config.json"].as_str().expect("a run config");
            if map["metadata"]["labels"]["stic.dev/step"] == "prepare" && !config.contains("<digest") {
                let config = RunConfig::from_json(config).expect("the trainer reads it");
                assert_eq!(config.step(), StepName::Prepare);
            }
        }
    }
}

#[test]
fn a_claim_template_a_suspension_and_shards_are_rendered() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.yaml");
    let manifest = "apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: own}
spec:
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: coco}}
  preferences: {shards: 4}
  output: {volumeClaimTemplate: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}
  suspend: true
  rerun: 2
";
    std::fs::write(&path, manifest).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let text = render_ok(&["-f", path, "-n", "research"]);
    assert!(
        text.contains(
            "# spec.suspend is true: the controller creates none of these objects until it is false."
        ),
        "{text}"
    );
    assert!(text.contains("; with an affinity to one node if a claim is ReadWriteOnce"), "{text}");
    let documents = documents(&text);
    let kinds: Vec<_> = documents.iter().filter_map(|it| it["kind"].as_str()).collect();
    let step = ["ConfigMap", "Job"];
    assert_eq!(kinds, [&["PersistentVolumeClaim"][..], &step, &step, &step].concat());
    assert_eq!(documents[0]["metadata"]["name"], "own-output");
    assert_eq!(documents[4]["spec"]["completions"], 4);
    assert!(documents.iter().all(|it| it["metadata"]["namespace"] == "research"));
    assert!(
        documents.iter().skip(1).all(|it| it["metadata"]["ownerReferences"][0]["uid"] == "<UID of the run>")
    );
}

#[test]
fn errors_name_file_and_line() {
    let fails = |args: &[&str], messages: &[&str]| {
        let output = render(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{err}");
        for text in messages {
            assert!(err.contains(text), "{text:?} is not in: {err}");
        }
    };
    let two = "examples/quickstart/stage-two.yaml";
    fails(
        &["-f", two],
        &["stage-two.yaml:9: there is no StageOneRun scenes among the manifests", "Add its manifest with -f"],
    );
    let one = "examples/quickstart/stage-one.yaml";
    fails(
        &["-f", one, "--step", "describe"],
        &["has no step describe. Its steps are prepare, generate, train."],
    );
    fails(
        &["-f", one, "--step", "sing"],
        &["invalid value 'sing'", "possible values: prepare, generate, describe, train"],
    );
}
