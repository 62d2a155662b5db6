//! `evaluate` on the quickstart's model.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

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

/// The first lines of a file of the held-out volume.
fn head(name: &str, lines: usize, to: &Path) -> PathBuf {
    let text = std::fs::read_to_string(volumes().join("heldout").join(name)).unwrap();
    let path = to.join(name);
    std::fs::write(&path, text.lines().take(lines).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    path
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

#[test]
fn answers_under_another_adapter_of_the_same_name_are_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    let (questions, scenes) = (head("questions.jsonl", 6, dir.path()), head("scenes.jsonl", 2, dir.path()));
    let (adapter, output) = (dir.path().join("adapter"), dir.path().join("out"));
    let table = || -> (String, Value) {
        let ended = Command::new(env!("CARGO_BIN_EXE_stic-trainer"))
            .arg("evaluate")
            .args(["--model".as_ref(), volumes().join("models/scenes-llava").as_os_str()])
            .args(["--adapter", &format!("tuned={}", adapter.display())])
            .args(["--questions".as_ref(), questions.as_os_str()])
            .args(["--scenes".as_ref(), scenes.as_os_str()])
            .args(["--images".as_ref(), volumes().join("heldout").as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let table = std::fs::read_to_string(output.join("table.json")).unwrap();
        (String::from_utf8(ended.stdout).unwrap(), serde_json::from_str(&table).unwrap())
    };
    write_adapter(&adapter, 0.0);
    let (text, first) = table();
    assert!(text.contains("against base") && text.contains("6 questions and 2 scenes"), "{text}");
    assert_eq!(first[1]["againstFirst"][2]["mean"], 0.0, "an adapter of zeros describes like the base");
    assert!(first[0]["descriptionF1"]["mean"].as_f64().unwrap() > 0.0, "{first}");

    write_adapter(&adapter, 50.0);
    let (_, second) = table();
    assert_eq!(second[0], first[0], "the base model's scores do not change");
    assert_eq!(second[1]["descriptionF1"]["mean"], 0.0, "a broken model names nothing correctly");
}
