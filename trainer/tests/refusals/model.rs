//! Models that cannot be used: 64, before an image is opened.

use serde_json::{Value, json};

use crate::bench::{Bench, Case, Spoil, check};
use crate::config::images;
use crate::tensors::{edit_header, named, with_header};

const WEIGHTS: &str = "models/m/model.safetensors";
const INDEX: &str = "models/m/model.safetensors.index.json";
const CONFIG: &str = "models/m/config.json";
const TOKENIZER: &str = "models/m/tokenizer.json";
const PROCESSOR: &str = "models/m/processor_config.json";

fn refused(cases: &[Spoil<'_>]) {
    let cases: Vec<Case<'_>> =
        cases.iter().map(|(name, spoil, says)| Case { name, spoil: *spoil, code: 64, says }).collect();
    check(&images(None, "Skip"), &cases);
}

#[test]
fn weights_that_are_not_whole() {
    let cut = |bench: &Bench, length: usize| bench.put(WEIGHTS, &bench.read(WEIGHTS)[..length]);
    refused(&[
        ("empty", &|b| cut(b, 0), &["model.safetensors: not a whole", "it is empty, copy it again"]),
        ("cut in the length", &|b| cut(b, 5), &["model.safetensors: not a whole", "truncated or damaged"]),
        ("cut in the header", &|b| cut(b, 500), &["model.safetensors: not a whole", "truncated or damaged"]),
        (
            "cut at the end",
            &|b| cut(b, b.read(WEIGHTS).len() - 1),
            &["model.safetensors: not a whole", "copy it again"],
        ),
        (
            "too long",
            &|b| b.put(WEIGHTS, [b.read(WEIGHTS), vec![0]].concat()),
            &["model.safetensors: not a whole"],
        ),
        (
            "a huge header",
            &|b| b.put(WEIGHTS, [&[0xff; 8], &b.read(WEIGHTS)[8..]].concat()),
            &["header too large"],
        ),
        (
            "a header of NaN",
            &|b| b.put(WEIGHTS, with_header(b"{\"a\":NaN}", b"")),
            &["invalid JSON in header"],
        ),
        (
            "a header not UTF-8",
            &|b| b.put(WEIGHTS, with_header(b"{\"\xff\":1}", b"")),
            &["invalid UTF-8 in header"],
        ),
        (
            "a pointer of Git LFS",
            &|b| b.put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            &["model.safetensors: ", "pointer of Git LFS", "run git lfs pull"],
        ),
        ("gone", &|b| b.remove(WEIGHTS), &["neither model.safetensors nor", "must hold a checkpoint"]),
        (
            "pickled",
            &|b| {
                b.remove(WEIGHTS);
                b.put("models/m/pytorch_model.bin", "x");
            },
            &["pytorch_model.bin only", "convert it with transformers' save_pretrained"],
        ),
        ("a folder", &|b| b.folder(WEIGHTS), &["model.safetensors: is not a regular file"]),
        ("a pipe", &|b| b.pipe(WEIGHTS), &["model.safetensors: is not a regular file"]),
    ]);
}

#[test]
fn tensors_that_are_not_the_configs() {
    let up = "layers.0.mlp.up_proj";
    let edit = |bench: &Bench, key: &str, value: Value| {
        edit_header(bench, WEIGHTS, |header| {
            let name = named(header, up);
            header[&name][key] = value;
        });
    };
    refused(&[
        (
            "another shape",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, up);
                    header[&name]["shape"].as_array_mut().unwrap().reverse();
                });
            },
            &[
                "model.safetensors: tensor \"language_model",
                up,
                "has shape [",
                "config.json asks for [",
                "download both",
            ],
        ),
        (
            "missing",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, up);
                    let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
                    header["something_else"] = tensor;
                });
            },
            &["models/m: no tensor means", up, "incomplete"],
        ),
        (
            // I16 is as wide as BF16.
            "whole numbers",
            &|b| edit(b, "dtype", json!("I16")),
            &["model.safetensors: tensor", up, "is stored as I16", "use a checkpoint in F32, F16 or BF16"],
        ),
        (
            "an unknown type",
            &|b| edit(b, "dtype", json!("Q4")),
            &["model.safetensors: ", "unknown variant `Q4`"],
        ),
        ("beyond the end", &|b| edit(b, "data_offsets", json!([0, 1u64 << 60])), &["invalid offset", up]),
        (
            "too large to be",
            &|b| edit(b, "shape", json!([1u64 << 40, 1u64 << 40])),
            &["overflow computing buffer size"],
        ),
        (
            "twice, in two layouts",
            &|b| {
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, "layers.1.mlp.up_proj");
                    let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
                    header["model.language_model.layers.0.mlp.up_proj.weight"] = tensor;
                });
            },
            &["both mean", "mixes layouts"],
        ),
        (
            "more layers than the config's",
            &|b| b.edit_json(CONFIG, |c| c["text_config"]["num_hidden_layers"] = json!(1)),
            &["layers.1.input_layernorm", "num_hidden_layers in", "is 1", "download both again"],
        ),
        (
            "fewer",
            &|b| b.edit_json(CONFIG, |c| c["text_config"]["num_hidden_layers"] = json!(1_000_000_000)),
            &["no tensor means", "input_layernorm.weight"],
        ),
    ]);
}

#[test]
fn an_index_that_is_not_one() {
    refused(&[
        (
            "a shard that is not there",
            &|b| b.put(INDEX, json!({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).to_string()),
            &[
                "model-00001-of-00002.safetensors: shard named by model.safetensors.index.json not found",
                "download it again",
            ],
        ),
        ("cut", &|b| b.put(INDEX, "{\"weight_map\":"), &["index.json: EOF", "download it again"]),
        ("not UTF-8", &|b| b.put(INDEX, b"{\"\xff\": 1}"), &["index.json: is not UTF-8"]),
        ("no map", &|b| b.put(INDEX, "{}"), &["index.json: field weight_map is missing"]),
        (
            "an empty map",
            &|b| b.put(INDEX, "{\"weight_map\": {}}"),
            &["index.json: field weight_map must map"],
        ),
        (
            "out of the folder",
            &|b| b.put(INDEX, "{\"weight_map\": {\"a\": \"../m/model.safetensors\"}}"),
            &["names of safetensors files beside it"],
        ),
        (
            "a folder",
            &|b| b.put(INDEX, "{\"weight_map\": {\"a\": \"..\"}}"),
            &["names of safetensors files beside it"],
        ),
    ]);
}

#[test]
fn a_config_that_is_not_a_llavas() {
    let text = |bench: &Bench, key: &str, value: Value| {
        bench.edit_json(CONFIG, |config| config["text_config"][key] = value);
    };
    refused(&[
        (
            "gone",
            &|b| b.remove(CONFIG),
            &["config.json: not found", "must be the folder of a LLaVA checkpoint"],
        ),
        ("cut", &|b| b.put(CONFIG, &b.read(CONFIG)[..100]), &["config.json: EOF", "truncated or damaged"]),
        ("empty", &|b| b.put(CONFIG, ""), &["config.json: EOF", "it is empty, copy it again"]),
        ("not UTF-8", &|b| b.put(CONFIG, b"{\"model_type\": \"\xff\"}"), &["config.json: is not UTF-8"]),
        ("NaN", &|b| b.put(CONFIG, "{\"model_type\": NaN}"), &["config.json: expected value at line 1"]),
        ("a list", &|b| b.put(CONFIG, "[]"), &["config.json: invalid type: sequence, expected a map"]),
        ("a pipe", &|b| b.pipe(CONFIG), &["config.json: is not a regular file"]),
        (
            "an unknown architecture",
            &|b| b.edit_json(CONFIG, |c| c["model_type"] = json!("qwen2_vl")),
            &["config.json: field model_type: \"qwen2_vl\" is not an architecture", "use a LLaVA-1.5"],
        ),
        (
            "no architecture",
            &|b| b.edit_json(CONFIG, |c| _ = c.as_object_mut().unwrap().remove("model_type")),
            &["config.json: field model_type: "],
        ),
        (
            "another language model",
            &|b| text(b, "model_type", json!("qwen2")),
            &["text_config.model_type: \"qwen2\"", "use llama (Vicuna) or mistral"],
        ),
        (
            "another vision tower",
            &|b| b.edit_json(CONFIG, |c| c["vision_config"]["model_type"] = json!("siglip_vision_model")),
            &["vision_config.model_type: \"siglip_vision_model\"", "CLIP"],
        ),
        (
            "no object",
            &|b| b.edit_json(CONFIG, |c| c["text_config"] = json!("x")),
            &["field text_config: must be an object"],
        ),
        (
            "a size as text",
            &|b| text(b, "hidden_size", json!("x")),
            &["text_config.hidden_size: must be a positive whole"],
        ),
        (
            "a size of 0",
            &|b| text(b, "hidden_size", json!(0)),
            &["text_config.hidden_size: must be a positive whole"],
        ),
        (
            "half a layer",
            &|b| text(b, "num_hidden_layers", json!(1.5)),
            &["text_config.num_hidden_layers: must be"],
        ),
        (
            "another vocabulary",
            &|b| text(b, "vocab_size", json!(100)),
            &["embed_tokens.weight", "asks for [100, "],
        ),
        (
            "features of no layer",
            &|b| b.edit_json(CONFIG, |c| c["vision_feature_layer"] = json!(-99)),
            &["config.json: field vision_feature_layer: -99 is not one of"],
        ),
        (
            "features of nothing",
            &|b| b.edit_json(CONFIG, |c| c["vision_feature_layer"] = json!([])),
            &["field vision_feature_layer: must be"],
        ),
    ]);
}

#[test]
fn a_tokenizer_a_processor_or_a_template_that_is_not_the_models() {
    let token = json!({"id": 999_999, "content": "<more>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let processor = |bench: &Bench, key: &str, value: Value| {
        bench.edit_json(PROCESSOR, |config| config["image_processor"][key] = value);
    };
    refused(&[
        (
            "no tokenizer",
            &|b| b.remove(TOKENIZER),
            &["models/m: the model has no tokenizer", "tokenizer.json", "copy one"],
        ),
        (
            "a cut tokenizer",
            &|b| b.put(TOKENIZER, &b.read(TOKENIZER)[..400]),
            &["tokenizer.json: EOF", "truncated or damaged"],
        ),
        (
            "a tokenizer not UTF-8",
            &|b| b.put(TOKENIZER, [b"\xff", &b.read(TOKENIZER)[..]].concat()),
            &["tokenizer.json: "],
        ),
        (
            "a tokenizer's pointer",
            &|b| b.put(TOKENIZER, "version https://git-lfs.github.com/spec/v1\n"),
            &["tokenizer.json: ", "git lfs pull"],
        ),
        (
            "more tokens than the embedding has rows",
            &|b| b.edit_json(TOKENIZER, |t| t["added_tokens"].as_array_mut().unwrap().push(token.clone())),
            &["a token \"<more>\" of id", "vocab_size in config.json is", "same revision"],
        ),
        (
            "a broken tokenizer config",
            &|b| b.put("models/m/tokenizer_config.json", "{"),
            &["tokenizer_config.json: EOF"],
        ),
        (
            "no processor",
            &|b| b.remove(PROCESSOR),
            &["models/m: no image processor", "copy preprocessor_config.json"],
        ),
        ("a broken processor", &|b| b.put(PROCESSOR, "{"), &["processor_config.json: EOF"]),
        (
            "enormous crops",
            &|b| processor(b, "size", json!({"shortest_edge": 1_000_000_000})),
            &["size is", "from 1 to 16384"],
        ),
        (
            "crops of another tower",
            &|b| {
                b.edit_json(CONFIG, |c| c["image_grid_pinpoints"] = json!([[100, 100]]));
                processor(b, "image_grid_pinpoints", json!([[100, 100]]));
                processor(b, "crop_size", json!({"height": 50, "width": 50}));
            },
            &[
                "makes crops of 50x50 pixels",
                "image_size of the vision tower in config.json",
                "same revision",
            ],
        ),
        (
            "no template",
            &|b| b.remove("models/m/chat_template.jinja"),
            &["has no chat template", "spec.model.chatTemplate"],
        ),
        (
            "a broken template",
            &|b| b.put("models/m/chat_template.jinja", "{% for x in"),
            &["chat_template.jinja: ", "does not compile"],
        ),
        (
            "a template that fails",
            &|b| b.put("models/m/chat_template.jinja", "{{ raise_exception('no') }}"),
            &["chat_template.jinja: ", "fails: "],
        ),
        (
            "a template without the image",
            &|b| b.put("models/m/chat_template.jinja", "Hello"),
            &["leaves the image out"],
        ),
        ("no folder", &|b| b.remove("models/m"), &["models/m: no such folder"]),
    ]);
}
