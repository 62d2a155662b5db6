//! A small file with the statistics of `llava_v1_5_mix665k.json` is prepared, described and trained on; the whole one is
//! measured by `make bench-data`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const ROWS: usize = 2000;
const LIMIT: usize = 12;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn generator() -> Command {
    let mut command = Command::new("python3");
    command.arg(repository().join("trainer/benches/data/mix665k.py"));
    command
}

/// The volumes with the file, and the config of `prepare`.
fn volumes() -> (tempfile::TempDir, Value) {
    let root = tempfile::tempdir().unwrap();
    for folder in ["models/m", "stic"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    for entry in fs::read_dir(repository().join("examples/quickstart/volumes/models/scenes-llava")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), root.path().join("models/m").join(entry.file_name())).unwrap();
    }
    let generated = generator().arg("generate").arg(root.path()).args(["--rows", &ROWS.to_string()]).status();
    assert!(generated.unwrap().success());
    let config = generator().args(["config", "--limit", &LIMIT.to_string()]).output().unwrap();
    assert!(config.status.success(), "{}", String::from_utf8_lossy(&config.stderr));
    (root, serde_json::from_slice(&config.stdout).unwrap())
}

/// Runs a step and returns its result and its log.
fn step(root: &Path, config: &Value) -> (Value, String) {
    fs::write(root.join("config.json"), config.to_string()).unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_stic-trainer"))
        .args(["step", "--config", "config.json", "--volumes", "."])
        .current_dir(root)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{log}");
    (serde_json::from_slice(&ended.stdout).unwrap(), log)
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn artifact(result: &Value, kind: &str) -> Value {
    let artifacts = result["artifacts"].as_array().unwrap();
    artifacts.iter().find(|artifact| artifact["kind"] == kind).unwrap().clone()
}

fn reference(artifact: &Value) -> Value {
    json!({"location": artifact["location"], "digest": artifact["digest"]})
}

fn folder(root: &Path, artifact: &Value) -> PathBuf {
    root.join("stic").join(artifact["location"]["path"].as_str().unwrap())
}

#[test]
fn a_run_on_data_like_mix665k_describes_and_trains_on_what_was_drawn() {
    let (root, prepare) = volumes();
    let root = root.path();
    let (prepared, log) = step(root, &prepare);
    assert_eq!(prepared["items"]["total"], LIMIT, "{log}");
    assert!(log.contains(" rows have the id of an earlier one"), "{log}");
    let items = artifact(&prepared, "Prepared");
    let ids: BTreeSet<String> = rows(&folder(root, &items).join("items.jsonl"))
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect();
    let usable = prepared["items"]["done"].as_u64().unwrap() as usize;
    assert!(ids.len() == usable && usable + 3 > LIMIT, "{prepared}");
    // Preparing again draws the same rows.
    assert_eq!(artifact(&step(root, &prepare).0, "Prepared")["digest"], items["digest"]);

    let task = &prepare["task"]["prepare"];
    let mut model = task["model"].clone();
    model["digest"] = prepared["inputs"]["model"].clone();
    let images = json!({"volume": "llava", "path": "images"});
    let mut config = prepare.clone();
    config["task"] = json!({"describe": {"model": model, "adapter": null, "items": reference(&items), "images": images,
        "recipe": task["recipe"]["descriptions"], "precision": "F32", "shards": 1}});
    let (described, _) = step(root, &config);
    assert_eq!(described["items"]["done"], usable);

    config["task"] = json!({"train": {"model": model, "adapter": null, "items": reference(&items),
        "data": {"shards": described["shards"]}, "images": images, "recipe": task["train"], "precision": "F32"}});
    let (trained, _) = step(root, &config);
    let descriptions = rows(&folder(root, &artifact(&trained, "Descriptions")).join("descriptions.jsonl"));
    let described: BTreeSet<String> =
        descriptions.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(described, ids);
    assert!(folder(root, &artifact(&trained, "Adapter")).join("adapter_model.safetensors").is_file());
}
