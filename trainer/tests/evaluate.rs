//! `evaluate` on the quickstart's model.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use serde_json::Value;
use stic_contract::recipe::{Lora, LoraTarget};
use stic_trainer::checkpoint::adapter;
use stic_trainer::model::ModelConfig;
use stic_trainer::model::lora::LoraAdapter;

fn volumes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes")
}

/// A folder with the first held-out questions, and all scenes.
fn heldout(questions: usize, to: &Path) -> PathBuf {
    let (from, to) = (volumes().join("heldout"), to.join("heldout"));
    std::fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink(from.join("images").canonicalize().unwrap(), to.join("images")).unwrap();
    std::fs::copy(from.join("scenes.jsonl"), to.join("scenes.jsonl")).unwrap();
    write_questions(questions, &to);
    to
}

fn write_questions(count: usize, to: &Path) {
    let text = std::fs::read_to_string(volumes().join("heldout/questions.jsonl")).unwrap();
    let first = text.lines().take(count).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(to.join("questions.jsonl"), first).unwrap();
}

/// An adapter whose matrices B repeat -b, 0, b: with b = 0 it changes nothing.
fn write_adapter(dir: &Path, b: f32) {
    std::fs::create_dir_all(dir).unwrap();
    let config = ModelConfig::from_dir(&volumes().join("models/scenes-llava")).unwrap().text;
    let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![LoraTarget::DownProj] };
    let adapter = LoraAdapter::new(&config, &lora, 0, &Device::Cpu).unwrap();
    for (name, var) in adapter.named_vars().iter().filter(|(name, _)| name.contains("lora_B")) {
        let values = (0..var.elem_count()).map(|i| (i % 3) as f32 * b - b).collect();
        let values = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
        var.set(&values).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    adapter::save(&adapter, dir, "scenes-llava", adapter::AdapterNames::Transformers).unwrap();
}

/// The base model and the adapter `tuned` on the scenes in `heldout`.
struct Evaluate<'a> {
    heldout: &'a Path,
    adapter: &'a Path,
    output: &'a Path,
}

impl Evaluate<'_> {
    /// What it prints, and the rows of results.json.
    fn run(&self, options: &[&str]) -> (String, Vec<Value>) {
        let ended = Command::new(env!("CARGO_BIN_EXE_stic-trainer"))
            .arg("evaluate")
            .args(["--model".as_ref(), volumes().join("models/scenes-llava").as_os_str()])
            .args(["--adapter", &format!("tuned={}", self.adapter.display())])
            .args(["--benchmark", &format!("Scenes={}", self.heldout.display())])
            .args(["--output".as_ref(), self.output.as_os_str()])
            .args(options)
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let rows = std::fs::read(self.output.join("results.json")).unwrap();
        (String::from_utf8(ended.stdout).unwrap(), serde_json::from_slice(&rows).unwrap())
    }

    /// The answers of all subjects by their ids.
    fn answers(&self) -> BTreeMap<String, BTreeMap<String, Value>> {
        let journals = std::fs::read_dir(self.output).unwrap().map(|entry| entry.unwrap().path());
        let journals = journals.filter(|path| path.to_str().unwrap().contains("/answers-"));
        let rows = |path: &PathBuf| -> BTreeMap<String, Value> {
            let text = std::fs::read_to_string(path).unwrap();
            let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            rows.map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect()
        };
        journals.map(|path| (path.display().to_string(), rows(&path))).collect()
    }
}

fn row<'r>(rows: &'r [Value], prompting: &str, metric: &str, subject: &str) -> &'r Value {
    let wanted =
        |row: &&Value| row["prompting"] == prompting && row["metric"] == metric && row["subject"] == subject;
    rows.iter().find(wanted).unwrap_or_else(|| panic!("no row {prompting} {metric} {subject}"))
}

#[test]
fn answers_under_another_adapter_of_the_same_name_are_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    let (heldout, adapter) = (heldout(6, dir.path()), dir.path().join("adapter"));
    let evaluate = Evaluate { heldout: &heldout, adapter: &adapter, output: &dir.path().join("out") };
    write_adapter(&adapter, 0.0);
    let (text, first) = evaluate.run(&[]);
    let [base, tuned] =
        ["base", "tuned"].map(|subject| row(&first, "DescribeAndRespond", "descriptionF1", subject));
    assert_eq!(tuned["difference"]["estimate"]["points"], 0.0, "an adapter of zeros describes like the base");
    assert!(base["score"]["estimate"]["points"].as_f64().unwrap() > 0.0, "{base}");
    let accuracy = row(&first, "Direct", "accuracy", "base");
    assert_eq!(accuracy["score"]["counted"], 6);
    assert!(text.contains("DescribeAndRespond") && text.contains("descriptionF1"), "{text}");

    write_adapter(&adapter, 50.0);
    let (_, second) = evaluate.run(&[]);
    assert_eq!(row(&second, "Direct", "accuracy", "base"), accuracy, "the base model's scores do not change");
    let broken = row(&second, "DescribeAndRespond", "descriptionF1", "tuned");
    assert_eq!(broken["score"]["estimate"]["points"], 0.0, "a broken model names nothing correctly");
}

#[test]
fn only_what_was_not_asked_before_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (heldout, adapter) = (heldout(6, dir.path()), dir.path().join("adapter"));
    write_adapter(&adapter, 0.0);
    let evaluate = Evaluate { heldout: &heldout, adapter: &adapter, output: &dir.path().join("out") };
    evaluate.run(&["--prompting", "direct"]);
    let first = evaluate.answers();
    assert_eq!(first.values().map(BTreeMap::len).collect::<Vec<_>>(), [6, 6]);

    // More questions and another way of asking: the answers before are still there, as they were.
    write_questions(9, &heldout);
    evaluate.run(&["--prompting", "direct,describe-and-respond-as-released"]);
    let second = evaluate.answers();
    for (journal, answers) in &first {
        assert_eq!(second[journal].len(), 18);
        assert!(answers.iter().all(|(id, answer)| second[journal].get(id) == Some(answer)), "{journal}");
        let blind = second[journal].values().filter_map(|answer| answer["description"].as_str());
        assert_eq!(blind.collect::<std::collections::BTreeSet<_>>().len(), 1, "one description for all");
    }

    // Another image under an old name.
    let images = heldout.join("images");
    let original = std::fs::canonicalize(&images).unwrap();
    std::fs::remove_file(&images).unwrap();
    std::fs::create_dir(&images).unwrap();
    for name in ["scene-000.jpg", "scene-001.jpg", "scene-002.jpg"] {
        let from = if name == "scene-000.jpg" { "scene-009.jpg" } else { name };
        std::fs::copy(original.join(from), images.join(name)).unwrap();
    }
    evaluate.run(&["--prompting", "direct"]);
    let questions = std::fs::read_to_string(heldout.join("questions.jsonl")).unwrap();
    let changed = questions.lines().filter(|line| line.contains("scene-000.jpg")).count();
    for (journal, answers) in evaluate.answers() {
        assert_eq!(answers.len(), 18 + changed, "{journal}");
    }
}
