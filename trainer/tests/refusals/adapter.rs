//! Unusable adapters: each of the three commands that read one refuses it and writes nothing.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use stic_contract::Digest;
use stic_contract::recipe::{Lora, LoraTarget};
use stic_trainer::checkpoint::adapter;
use stic_trainer::model::ModelConfig;
use stic_trainer::model::lora::LoraAdapter;

use crate::config::images;
use crate::sandbox::{Sandbox, Spoil};
use crate::tensors::{edit_header, named};

const WEIGHTS: &str = "stic/adapter/adapter_model.safetensors";
const CONFIG: &str = "stic/adapter/adapter_config.json";

pub(crate) fn write_adapter(model: &Path, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let config = ModelConfig::from_dir(model).unwrap().text;
    let lora =
        Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![LoraTarget::QProj, LoraTarget::UpProj] };
    let new = LoraAdapter::new(&config, &lora, 0, &Device::Cpu).unwrap();
    adapter::save(&new, dir, "m", adapter::AdapterNames::Transformers).unwrap();
}

fn rename(sandbox: &Sandbox, edit: impl Fn(&str) -> String) {
    edit_header(sandbox, WEIGHTS, |header| {
        let tensors = header.as_object().unwrap().clone();
        *header = tensors.into_iter().map(|(name, tensor)| (edit(&name), tensor)).collect();
    });
}

fn edit_tensors(sandbox: &Sandbox, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = sandbox.path(WEIGHTS);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
}

/// Adds LoRA weights of CLIP, with this value in B.
fn with_vision_tower(sandbox: &Sandbox, value: f32) {
    let module = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj";
    edit_tensors(sandbox, |tensors| {
        let half = |value: f32, shape: (usize, usize)| Tensor::full(value, shape, &Device::Cpu).unwrap();
        tensors.insert(format!("{module}.lora_A.weight"), half(1.0, (2, 64)));
        tensors.insert(format!("{module}.lora_B.weight"), half(value, (64, 2)));
    });
}

fn set(sandbox: &Sandbox, key: &str, value: Value) {
    sandbox.edit_json(CONFIG, |config| config[key] = value);
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
        ("an empty folder", &|b| b.folder("stic/adapter"), &["adapter_config.json: not found"]),
        (
            "a cut config",
            &|b| b.put(CONFIG, "{\"r\": 2"),
            &["adapter_config.json: EOF", "truncated or damaged"],
        ),
        ("a config without rank", &|b| b.put(CONFIG, "{}"), &["adapter_config.json: missing field `r`"]),
        ("a rank as text", &|b| set(b, "r", json!("two")), &["adapter_config.json: field r: invalid type"]),
        ("a rank of 0", &|b| set(b, "r", json!(0)), &["field r: must be at least 1"]),
        (
            "another rank",
            &|b| set(b, "r", json!(4)),
            &["adapter_model.safetensors: tensor ", "has shape [", "it must be [4, "],
        ),
        ("another method", &|b| set(b, "peft_type", json!("LOHA")), &["field peft_type: only LORA"]),
        (
            "DoRA",
            &|b| set(b, "use_dora", json!(true)),
            &["field use_dora: DoRA is not plain LoRA", "merge the adapter into the base"],
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
            &["field rank_pattern: ", "merge the adapter into"],
        ),
        (
            "PiSSA",
            &|b| set(b, "init_lora_weights", json!("pissa")),
            &[
                "field init_lora_weights: \"pissa\" changed the base weights",
                "path_initial_model_for_weight_conversion",
            ],
        ),
        (
            "aLoRA",
            &|b| set(b, "alora_invocation_tokens", json!([300, 301])),
            &["field alora_invocation_tokens: ", "merge the adapter into"],
        ),
        (
            "a field of a later PEFT",
            &|b| set(b, "use_something", json!(true)),
            &["field use_something: is unknown to this version, which knows the fields of PEFT 0.21"],
        ),
        (
            "a pattern that is none",
            &|b| set(b, "target_modules", json!("(")),
            &["field target_modules: ", "save the adapter again"],
        ),
        (
            "layers that the config leaves out",
            &|b| {
                set(b, "target_modules", json!(["q_proj", "up_proj"]));
                set(b, "layers_to_transform", json!([0]));
            },
            &["field target_modules: ", "leaves out layer 1's q_proj", "PEFT would ignore"],
        ),
        (
            "missing layers that PEFT would fill at random",
            &|b| {
                set(b, "target_modules", json!(["q_proj", "up_proj", "v_proj"]));
                set(b, "init_lora_weights", json!(false));
            },
            &["field target_modules: selects 4 projections without tensors (layers.0.self_attn.v_proj, "],
        ),
        (
            "a trained projector",
            &|b| b.put("stic/adapter/non_lora_trainables.bin", "x"),
            &["non_lora_trainables.bin: holds the projector", "merge_lora_weights.py"],
        ),
        (
            "a trained vision tower",
            &|b| with_vision_tower(b, 0.5),
            &[
                "the adapter trained the vision tower (\"model.vision_tower.encoder.layers.0.self_attn.q_proj\"",
                "merge the adapter into the base model",
            ],
        ),
        (
            "a training that diverged",
            &|b| {
                edit_tensors(b, |tensors| {
                    for tensor in tensors.values_mut() {
                        *tensor = Tensor::full(f32::NAN, tensor.shape(), &Device::Cpu).unwrap();
                    }
                });
            },
            &["lora_A.weight\" holds a value that is not finite"],
        ),
        (
            "ZeRO-3 without gathering",
            &|b| {
                edit_tensors(b, |tensors| {
                    for tensor in tensors.values_mut() {
                        *tensor = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
                    }
                });
            },
            &["lora_A.weight\" is empty", "ZeRO-3", "zero_to_fp32.py"],
        ),
        (
            "cut weights",
            &|b| b.put(WEIGHTS, &b.read(WEIGHTS)[..200]),
            &["adapter_model.safetensors: not a valid safetensors file", "truncated or damaged"],
        ),
        (
            "empty weights",
            &|b| b.put(WEIGHTS, ""),
            &["adapter_model.safetensors: not a valid", "it is empty"],
        ),
        (
            "a Git LFS pointer",
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
            &[
                "layers.77.",
                "does not belong to this model",
                "check that the adapter was trained on this model",
            ],
        ),
        (
            "half of a pair",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, "layers.0.self_attn.q_proj.lora_B");
                    let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
                    header["base_model.model.vision_tower.x.lora_B.weight"] = tensor;
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
    let sandbox = Sandbox::new();
    let mut config = images(None, "Skip");
    config["task"]["prepare"]["adapter"] =
        json!({"location": {"volume": "stic", "path": "adapter"}, "digest": null});
    config["task"]["prepare"]["train"]["lora"] = Value::Null;
    sandbox.put(
        "rows.jsonl",
        json!({"id": "a", "image": "a.jpg", "prompt": "q", "response": "a cat"}).to_string(),
    );
    let export =
        |kind| ["export", kind, "--model", "models/m", "--adapter", "stic/adapter", "--output", "exported"];
    for (name, spoil, messages) in cases {
        sandbox.remove("stic/adapter");
        write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
        spoil(&sandbox);
        let before = sandbox.files("stic");
        sandbox.step(&config).expect_exit(name, 64, messages);
        for args in [&SCORE[..], &export("merged"), &export("adapter")] {
            sandbox.run(args).expect_exit(name, 64, messages);
        }
        assert_eq!(sandbox.files("stic"), before, "{name}: something was written");
        for written in ["scores.jsonl", "scores.jsonl.partial", "exported", "exported.partial"] {
            assert!(!sandbox.path(written).exists(), "{name}: {written}");
        }
    }
    write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
    sandbox.step(&config).expect_exit("fixed", 0, &[]);
    sandbox.run(&SCORE).expect_exit("fixed", 0, &[]);
    sandbox.run(&export("merged")).expect_exit("fixed", 0, &[]);
    sandbox.remove("exported");
    sandbox.run(&export("adapter")).expect_exit("fixed", 0, &[]);
    assert_eq!(sandbox.read("exported/adapter_model.safetensors"), sandbox.read(WEIGHTS));
}

const SCORE: [&str; 13] = [
    "score",
    "--model",
    "models/m",
    "--adapter",
    "stic/adapter",
    "--policy",
    "adapter",
    "--input",
    "rows.jsonl",
    "--images",
    "images",
    "--output",
    "scores.jsonl",
];

fn scored(sandbox: &Sandbox, case: &str, more: &[&str], messages: &[&str]) -> Vec<u8> {
    sandbox.run(&[&SCORE, more].concat()).expect_exit(case, 0, messages);
    sandbox.read("scores.jsonl")
}

#[test]
fn what_changes_nothing_is_accepted() {
    let sandbox = Sandbox::new();
    sandbox.put(
        "rows.jsonl",
        json!({"id": "a", "image": "a.jpg", "prompt": "q", "response": "a cat"}).to_string(),
    );
    let fresh = || {
        sandbox.remove("stic/adapter");
        write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
        edit_tensors(&sandbox, |tensors| {
            for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains("lora_B")) {
                *tensor = Tensor::full(0.01f32, tensor.shape(), &Device::Cpu).unwrap();
            }
        });
    };
    fresh();
    let expected = scored(&sandbox, "as written", &[], &[]);
    let untouched = "target_modules selects projections for which the adapter has no tensors";
    let cases: &[Spoil<'_>] = &[
        (
            "an untrained vision tower",
            &|b| with_vision_tower(b, 0.0),
            &["left out the adapter's LoRA weights"],
        ),
        ("targets that would match CLIP", &|b| set(b, "target_modules", json!(["q_proj", "up_proj"])), &[]),
        (
            "layers_to_transform",
            &|b| {
                set(b, "target_modules", json!(["q_proj", "up_proj"]));
                set(b, "layers_to_transform", json!([0, 1, 2, 3]));
            },
            &[],
        ),
        (
            "missing layers",
            &|b| set(b, "target_modules", json!(["q_proj", "up_proj", "v_proj"])),
            &[untouched, "projections=4", "layers.0.self_attn.v_proj"],
        ),
        (
            "another initialisation",
            &|b| {
                set(b, "init_lora_weights", json!("eva"));
                set(b, "eva_config", json!({"rho": 2.0}));
            },
            &[],
        ),
    ];
    for (name, change, messages) in cases {
        fresh();
        change(&sandbox);
        assert_eq!(scored(&sandbox, name, &[], messages), expected, "{name}");
    }
    fresh();
    sandbox.put("stic/adapter/non_lora_trainables.bin", "x");
    assert_eq!(scored(&sandbox, "a projector", &["--ignore-trained-projector"], &[]), expected);
}

#[test]
fn an_export_writes_the_names_of_the_library_that_loads_it() {
    let sandbox = Sandbox::new();
    write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
    for (names, tensor, pattern) in [
        ("transformers", "base_model.model.model.language_model.layers.0.", r".*language_model\.layers\."),
        (
            "transformers-before-4.52",
            "base_model.model.language_model.model.layers.0.",
            r".*language_model\.model\.layers\.",
        ),
        ("original-llava", "base_model.model.model.layers.0.", r"model\.layers\."),
    ] {
        let args =
            ["export", "adapter", "--model", "models/m", "--adapter", "stic/adapter", "--output", names];
        sandbox.run(&[&args[..], &["--names", names]].concat()).expect_exit(names, 0, &[]);
        let written = candle_core::safetensors::load(
            sandbox.path(&format!("{names}/adapter_model.safetensors")),
            &Device::Cpu,
        )
        .unwrap();
        assert!(written.contains_key(&format!("{tensor}self_attn.q_proj.lora_A.weight")), "{names}");
        let config: Value =
            serde_json::from_slice(&sandbox.read(&format!("{names}/adapter_config.json"))).unwrap();
        assert!(config["target_modules"].as_str().unwrap().starts_with(pattern), "{names}");
    }
}

#[test]
fn an_adapter_with_another_digest_is_refused() {
    let sandbox = Sandbox::new();
    write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
    let mut config = images(None, "Skip");
    let recorded = format!("sha256:{}", "0".repeat(64));
    config["task"]["prepare"]["adapter"] =
        json!({"location": {"volume": "stic", "path": "adapter"}, "digest": recorded});
    config["task"]["prepare"]["train"]["lora"] = Value::Null;
    sandbox.step(&config).expect_exit(
        "",
        65,
        &["adapter_model.safetensors: has digest ", "recorded sha256:0000", "raised rerun"],
    );
}

#[test]
fn a_changed_config_is_noticed_like_changed_weights() {
    let sandbox = Sandbox::new();
    sandbox.put(
        "rows.jsonl",
        json!({"id": "a", "image": "a.jpg", "prompt": "q", "response": "a cat"}).to_string(),
    );
    let dir = sandbox.path("stic/adapter");
    write_adapter(&sandbox.path("models/m"), &dir);
    let digest = |file: &str| Digest::of(&sandbox.read(file)).to_string();
    let marker = json!({"kind": "Adapter", "digest": digest(WEIGHTS), "companions": {"adapter_config.json": digest(CONFIG)},
        "sizeBytes": 1, "step": "train", "madeFrom": {}, "facts": {}, "createdBy": {"uid": "u", "rerun": 0},
        "madeWith": {}});
    sandbox.put("stic/adapter/_SUCCESS.json", marker.to_string());
    let inspect = ["inspect", "stic/adapter"];
    sandbox.run(&inspect).expect_exit("unchanged", 0, &[]);
    sandbox.run(&SCORE).expect_exit("unchanged", 0, &[]);
    set(&sandbox, "lora_alpha", json!(8.0));
    for args in [&inspect[..], &SCORE] {
        sandbox.run(args).expect_exit("changed", 65, &["adapter_config.json: has digest ", "changed later"]);
    }
    sandbox.remove("stic/adapter/_SUCCESS.json");
    let before = adapter::digest(&dir).unwrap();
    set(&sandbox, "lora_alpha", json!(16.0));
    assert_ne!(adapter::digest(&dir).unwrap(), before);
}

#[test]
fn an_export_overwrites_nothing() {
    let sandbox = Sandbox::new();
    write_adapter(&sandbox.path("models/m"), &sandbox.path("stic/adapter"));
    sandbox.put("out.v1/mine", "x");
    // A user's folder may have the name of an unfinished export.
    sandbox.put("out.partial/mine", "x");
    for kind in ["merged", "adapter"] {
        let args =
            |output| ["export", kind, "--model", "models/m", "--adapter", "stic/adapter", "--output", output];
        sandbox.run(&args("out.v1")).expect_exit(
            kind,
            64,
            &["out.v1: is not empty", "name a folder that does not exist yet"],
        );
        sandbox.run(&args("out.v2")).expect_exit(kind, 0, &[]);
        sandbox.run(&args("/")).expect_exit(kind, 64, &["/: is not empty"]);
        sandbox.remove("out.v2");
    }
    assert_eq!(sandbox.read("out.v1/mine"), b"x");
    assert_eq!(sandbox.read("out.partial/mine"), b"x");
}
