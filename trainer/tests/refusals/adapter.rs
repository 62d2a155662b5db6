//! Adapters that cannot be used, to the three commands that read one: nothing is written.

use std::path::Path;

use candle_core::Device;
use serde_json::{Value, json};
use stic_contract::recipe::{Lora, LoraTarget};
use stic_trainer::io::adapter;
use stic_trainer::model::LlavaConfig;
use stic_trainer::model::lora::LoraAdapter;

use crate::bench::{Bench, Spoil};
use crate::config::images;
use crate::tensors::{edit_header, named};

const WEIGHTS: &str = "stic/adapter/adapter_model.safetensors";
const CONFIG: &str = "stic/adapter/adapter_config.json";

pub(crate) fn write_adapter(model: &Path, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let config = LlavaConfig::from_dir(model).unwrap().text;
    let lora =
        Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![LoraTarget::QProj, LoraTarget::UpProj] };
    let made = LoraAdapter::new(&config, &lora, 0, &Device::Cpu).unwrap();
    adapter::save(&made, dir, "m").unwrap();
}

fn rename(bench: &Bench, edit: impl Fn(&str) -> String) {
    edit_header(bench, WEIGHTS, |header| {
        let tensors = header.as_object().unwrap().clone();
        *header = tensors.into_iter().map(|(name, tensor)| (edit(&name), tensor)).collect();
    });
}

fn set(bench: &Bench, key: &str, value: Value) {
    bench.edit_json(CONFIG, |config| config[key] = value);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_prepare_score_and_export() {
    let cases: &[Spoil<'_>] = &[
        ("no config", &|b| b.remove(CONFIG), &["adapter_config.json: not found", "an adapter folder holds"]),
        (
            "no weights",
            &|b| b.remove(WEIGHTS),
            &["adapter_model.safetensors: not found", "an adapter folder holds"],
        ),
        ("no folder", &|b| b.remove("stic/adapter"), &["adapter_config.json: not found"]),
        (
            "a cut config",
            &|b| b.put(CONFIG, "{\"r\": 2"),
            &["adapter_config.json: EOF", "save the adapter again"],
        ),
        ("a config without rank", &|b| b.put(CONFIG, "{}"), &["adapter_config.json: missing field `r`"]),
        ("a rank as text", &|b| set(b, "r", json!("two")), &["adapter_config.json: field r: invalid type"]),
        ("a rank of 0", &|b| set(b, "r", json!(0)), &["field r: must be at least 1"]),
        (
            "another rank",
            &|b| set(b, "r", json!(4)),
            &["adapter_model.safetensors: tensor ", "has shape [", "r 4 ask for [4, "],
        ),
        ("another method", &|b| set(b, "peft_type", json!("LOHA")), &["field peft_type: only LORA"]),
        (
            "DoRA",
            &|b| set(b, "use_dora", json!(true)),
            &["field use_dora: DoRA is not plain LoRA", "merge it into the base"],
        ),
        ("biases", &|b| set(b, "bias", json!("lora_only")), &["field bias: ", "merge the adapter"]),
        (
            "saved modules",
            &|b| set(b, "modules_to_save", json!(["mm_projector"])),
            &["field modules_to_save: "],
        ),
        (
            "ranks by pattern",
            &|b| set(b, "rank_pattern", json!({"q_proj": 8})),
            &["field rank_pattern, alpha_pattern: ", "merge it into"],
        ),
        (
            "cut weights",
            &|b| b.put(WEIGHTS, &b.read(WEIGHTS)[..200]),
            &["adapter_model.safetensors: not a whole safetensors file", "truncated or damaged"],
        ),
        (
            "empty weights",
            &|b| b.put(WEIGHTS, ""),
            &["adapter_model.safetensors: not a whole", "it is empty"],
        ),
        (
            "a pointer of Git LFS",
            &|b| b.put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
            &["git lfs pull"],
        ),
        (
            "no tensor matches",
            &|b| rename(b, |name| name.replace("layers", "blocks")),
            &[
                "adapter_model.safetensors: none of its ",
                "is a LoRA weight of this model's language layers",
                "check that the adapter was trained on this model",
            ],
        ),
        (
            "some tensors match",
            &|b| rename(b, |name| name.replace("layers.1.", "layers.77.")),
            &["layers.77.", "has no place in this model", "check that the adapter was trained on this model"],
        ),
        (
            "half of a pair",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, "layers.0.self_attn.q_proj.lora_B");
                    let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
                    header["base_model.model.vision_tower.x"] = tensor;
                });
            },
            &["adapter_model.safetensors: tensor ", "layers.0.self_attn.q_proj.lora_B", "is missing"],
        ),
        (
            "whole numbers",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, "lora_A");
                    header[&name]["dtype"] = json!("U32");
                });
            },
            &["adapter_model.safetensors: tensor ", "is stored as U32", "F32, F16 or BF16"],
        ),
    ];
    let bench = Bench::new();
    let mut config = images(None, "Skip");
    config["task"]["prepare"]["adapter"] =
        json!({"location": {"volume": "stic", "path": "adapter"}, "digest": null});
    config["task"]["prepare"]["train"]["lora"] = Value::Null;
    bench.put(
        "rows.jsonl",
        json!({"id": "a", "image": "a.jpg", "prompt": "q", "response": "a cat"}).to_string(),
    );
    let score = [
        "score",
        "--model",
        "models/m",
        "--adapter",
        "stic/adapter",
        "--input",
        "rows.jsonl",
        "--images",
        "images",
        "--output",
        "scores.jsonl",
    ];
    let export =
        |kind| ["export", kind, "--model", "models/m", "--adapter", "stic/adapter", "--output", "exported"];
    for (name, spoil, says) in cases {
        write_adapter(&bench.path("models/m"), &bench.path("stic/adapter"));
        spoil(&bench);
        let before = bench.files("stic");
        bench.step(&config).ended(name, 64, says);
        for args in [&score[..], &export("merged"), &export("adapter")] {
            bench.run(args).ended(name, 64, says);
        }
        assert_eq!(bench.files("stic"), before, "{name}: something was written");
        for written in ["scores.jsonl", "scores.jsonl.partial", "exported", "exported.partial"] {
            assert!(!bench.path(written).exists(), "{name}: {written}");
        }
    }
    write_adapter(&bench.path("models/m"), &bench.path("stic/adapter"));
    bench.step(&config).ended("mended", 0, &[]);
    bench.run(&score).ended("mended", 0, &[]);
    bench.run(&export("merged")).ended("mended", 0, &[]);
    bench.remove("exported");
    bench.run(&export("adapter")).ended("mended", 0, &[]);
    assert_eq!(bench.read("exported/adapter_model.safetensors"), bench.read(WEIGHTS));
}

#[test]
fn an_adapter_that_was_changed_after_it_was_recorded_is_refused() {
    let bench = Bench::new();
    write_adapter(&bench.path("models/m"), &bench.path("stic/adapter"));
    let mut config = images(None, "Skip");
    let recorded = format!("sha256:{}", "0".repeat(64));
    config["task"]["prepare"]["adapter"] =
        json!({"location": {"volume": "stic", "path": "adapter"}, "digest": recorded});
    config["task"]["prepare"]["train"]["lora"] = Value::Null;
    bench.step(&config).ended(
        "",
        65,
        &["adapter_model.safetensors: has digest ", "recorded sha256:0000", "raised rerun"],
    );
}

#[test]
fn an_export_writes_over_nothing() {
    let bench = Bench::new();
    write_adapter(&bench.path("models/m"), &bench.path("stic/adapter"));
    bench.put("out.v1/mine", "x");
    // What only looks like the name of an unfinished export is somebody's.
    bench.put("out.partial/mine", "x");
    for kind in ["merged", "adapter"] {
        let args =
            |output| ["export", kind, "--model", "models/m", "--adapter", "stic/adapter", "--output", output];
        bench.run(&args("out.v1")).ended(
            kind,
            64,
            &["out.v1: is not empty", "name a folder that is not there yet"],
        );
        bench.run(&args("out.v2")).ended(kind, 0, &[]);
        bench.run(&args("/")).ended(kind, 64, &["/: is not empty"]);
        bench.remove("out.v2");
    }
    assert_eq!(bench.read("out.v1/mine"), b"x");
    assert_eq!(bench.read("out.partial/mine"), b"x");
}
