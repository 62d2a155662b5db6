//! Valid run configs of every step, and ones that the trainer refuses.

use serde_json::{Value, json};

use crate::sandbox::{CommandOutput, Sandbox};

fn of(kind: &str, task: Value) -> Value {
    json!({"version": 1, "run": {"kind": kind, "namespace": "default", "name": "r", "uid": "u", "rerun": 0},
        "output": {"volume": "stic", "path": "out"}, "seed": 0, "task": task})
}

fn train_recipe(objective: Value) -> Value {
    json!({"objective": objective,
        "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]},
        "optimizer": {"learningRate": 1e-3, "schedule": "Cosine", "warmupRatio": 0.0, "weightDecay": 0.0,
            "maxGradientNorm": 1.0},
        "epochs": 1, "globalBatchSize": 1, "maxLength": null, "withImage": true, "chatTemplate": "Auto",
        "saveSteps": 1})
}

fn dpo() -> Value {
    json!({"dpo": {"loss": "Sigmoid", "beta": 0.1, "labelSmoothing": 0.0, "chosenLogProbWeight": 0.0,
        "rejectedTerm": "LogProb", "reference": "Base", "rejectedImageNoiseSteps": null}})
}

fn sampling() -> Value {
    json!({"temperature": 0.0, "topP": 1.0, "topK": 0, "maxNewTokens": 4})
}

fn preferences(source: &str) -> Value {
    json!({"source": source, "negatives": "PromptsOnly", "corruptedShare": 0.0, "captionPrompts": ["Describe it."],
        "wellCuratedPrompt": "Describe it well.", "hallucinationPrompts": ["Make it up."], "corruptions": [],
        "sampling": sampling(), "chatTemplate": "Auto"})
}

fn model() -> Value {
    json!({"location": {"volume": "models", "path": "m"}, "imageLayout": "Model"})
}

pub(crate) fn images(list: Option<&str>, on_unreadable: &str) -> Value {
    prepare(json!({"images": {"location": {"volume": "images", "path": ""}, "listFile": list, "limit": null,
        "onUnreadable": on_unreadable}}))
}

pub(crate) fn prepare(source: Value) -> Value {
    let source_of = if source.get("pairs").is_some() { "File" } else { "Generate" };
    of(
        "StageOneRun",
        json!({"prepare": {"model": model(), "adapter": null, "source": source,
        "recipe": {"preferences": preferences(source_of)}, "train": train_recipe(dpo()), "precision": "F32"}}),
    )
}

fn descriptions() -> Value {
    json!({"prompts": ["Describe it."], "sampling": sampling(), "chatTemplate": "Auto"})
}

fn sft() -> Value {
    json!({"sft": {"infusion": "<image>\nImage description:\n{description}\n\n{question}"}})
}

pub(crate) fn instructions(on_unreadable: &str) -> Value {
    of(
        "StageTwoRun",
        json!({"prepare": {"model": model(), "adapter": null,
        "source": {"instructions": {"location": {"volume": "instructions", "path": ""}, "file": "rows.json",
            "images": {"volume": "images", "path": ""}, "limit": null, "order": "Seeded",
            "onUnreadable": on_unreadable}},
        "recipe": {"descriptions": descriptions()}, "train": train_recipe(sft()), "precision": "F32"}}),
    )
}

pub(crate) fn pairs() -> Value {
    prepare(json!({"pairs": {"location": {"volume": "instructions", "path": ""}, "file": "pairs.jsonl",
        "images": {"volume": "images", "path": ""}, "limit": null, "onUnreadable": "Fail"}}))
}

/// The artifact of `kind` in a result, as later steps name it.
fn reference(result: &Value, kind: &str) -> Value {
    let found = result["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["kind"] == kind);
    json!({"location": found.unwrap()["location"], "digest": found.unwrap()["digest"]})
}

fn digested(prepared: &Value) -> Value {
    let mut model = model();
    model["digest"] = prepared["inputs"]["model"].clone();
    model
}

pub(crate) fn generate(prepared: &Value) -> Value {
    of(
        "StageOneRun",
        json!({"generate": {"model": digested(prepared), "adapter": null,
        "items": reference(prepared, "Prepared"), "images": {"volume": "images", "path": ""},
        "recipe": preferences("Generate"), "precision": "F32", "shards": 1}}),
    )
}

pub(crate) fn train(prepared: &Value, generated: &Value) -> Value {
    of(
        "StageOneRun",
        json!({"train": {"model": digested(prepared), "adapter": null,
        "items": reference(prepared, "Prepared"), "data": {"shards": generated["shards"]},
        "images": {"volume": "images", "path": ""}, "recipe": train_recipe(dpo()), "precision": "F32"}}),
    )
}

pub(crate) fn describe(prepared: &Value) -> Value {
    of(
        "StageTwoRun",
        json!({"describe": {"model": digested(prepared), "adapter": null,
        "items": reference(prepared, "Prepared"), "images": {"volume": "images", "path": ""},
        "recipe": descriptions(), "precision": "F32", "shards": 1}}),
    )
}

pub(crate) fn train_on_descriptions(prepared: &Value, described: &Value) -> Value {
    of(
        "StageTwoRun",
        json!({"train": {"model": digested(prepared), "adapter": null,
        "items": reference(prepared, "Prepared"), "data": {"shards": described["shards"]},
        "images": {"volume": "images", "path": ""}, "recipe": train_recipe(sft()), "precision": "F32"}}),
    )
}

fn run(text: &[u8]) -> CommandOutput {
    let sandbox = Sandbox::new();
    sandbox.put("c.json", text);
    let ran = sandbox.run(&["step", "--config", "c.json", "--volumes", "."]);
    assert!(sandbox.files("stic").is_empty(), "something was written");
    ran
}

#[test]
fn an_invalid_run_config_is_refused_with_the_path_of_the_key() {
    let good = images(None, "Skip");
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut config = good.clone();
        edit(&mut config);
        config.to_string().into_bytes()
    };
    let text = good.to_string();
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("empty", Vec::new(), &["c.json: ", "EOF"]),
        ("cut", text.as_bytes()[..200].to_vec(), &["c.json: ", "EOF"]),
        ("not UTF-8", b"{\"version\": \"\xff\"}".to_vec(), &["c.json: ", "UTF-8"]),
        ("not JSON", b"version: 1".to_vec(), &["c.json: "]),
        ("unknown at the root", with(&|c| c["sead"] = json!(1)), &["c.json: ", "unknown field `sead`"]),
        (
            "unknown within",
            with(&|c| c["task"]["prepare"]["train"]["optimizer"]["momentum"] = json!(0.9)),
            &["task.prepare.train.optimizer.momentum", "unknown field `momentum`"],
        ),
        (
            "wrong type",
            with(&|c| c["task"]["prepare"]["train"]["lora"]["rank"] = json!("two")),
            &["task.prepare.train.lora.rank", "invalid type: string \"two\""],
        ),
        (
            "missing",
            with(&|c| {
                c["task"]["prepare"]["train"]["optimizer"].as_object_mut().unwrap().remove("learningRate");
            }),
            &["task.prepare.train.optimizer", "missing field `learningRate`"],
        ),
        (
            "an unknown step",
            with(&|c| c["task"] = json!({"dream": {}})),
            &["task", "unknown variant `dream`"],
        ),
        ("version", with(&|c| c["version"] = json!(99)), &["c.json: ", "version"]),
    ];
    for (name, text, messages) in cases {
        run(text).expect_exit(name, 64, messages);
    }
}

#[test]
fn a_path_outside_its_volume_or_in_an_unmounted_one_is_refused() {
    let mut config = images(None, "Skip");
    config["task"]["prepare"]["source"]["images"]["location"]["path"] = json!("../models");
    run(config.to_string().as_bytes()).expect_exit(
        "leaves",
        64,
        &["images:../models", "leaves its volume", "use a path inside"],
    );
    let mut config = images(None, "Skip");
    config["task"]["prepare"]["source"]["images"]["location"]["volume"] = json!("coco");
    run(config.to_string().as_bytes()).expect_exit(
        "not mounted",
        64,
        &["volume \"coco\"", "mount the volume there"],
    );
    let sandbox = Sandbox::new();
    sandbox.run(&["step", "--config", "gone.json"]).expect_exit("no config", 64, &["gone.json", "--config"]);
    sandbox.run(&["step", "--confg", "x"]).expect_exit("bad usage", 64, &["--confg"]);
}
