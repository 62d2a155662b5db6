//! Unusable models end with exit code 64 before an image is opened.

use serde_json::{Value, json};

use crate::config::{generate, images};
use crate::sandbox::{Case, Sandbox, Spoil, check};
use crate::tensors::{edit_header, named, with_header};

const WEIGHTS: &str = "models/m/model.safetensors";
const INDEX: &str = "models/m/model.safetensors.index.json";
const CONFIG: &str = "models/m/config.json";
const TOKENIZER: &str = "models/m/tokenizer.json";
const PROCESSOR: &str = "models/m/processor_config.json";

fn refused(cases: &[Spoil<'_>]) {
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(name, spoil, messages)| Case { name, spoil: *spoil, code: 64, messages })
        .collect();
    check(&images(None, "Skip"), &cases);
}

#[test]
fn truncated_or_damaged_weights() {
    let cut = |sandbox: &Sandbox, length: usize| sandbox.put(WEIGHTS, &sandbox.read(WEIGHTS)[..length]);
    refused(&[
        ("empty", &|b| cut(b, 0), &["model.safetensors: not a valid", "it is empty, copy it again"]),
        ("cut in the length", &|b| cut(b, 5), &["model.safetensors: not a valid", "truncated or damaged"]),
        ("cut in the header", &|b| cut(b, 500), &["model.safetensors: not a valid", "truncated or damaged"]),
        (
            "cut at the end",
            &|b| cut(b, b.read(WEIGHTS).len() - 1),
            &["model.safetensors: not a valid", "copy it again"],
        ),
        (
            "too long",
            &|b| b.put(WEIGHTS, [b.read(WEIGHTS), vec![0]].concat()),
            &["model.safetensors: not a valid"],
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
            "a Git LFS pointer",
            &|b| b.put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            &["model.safetensors: ", "Git LFS pointer", "run git lfs pull"],
        ),
        (
            "gone",
            &|b| b.remove(WEIGHTS),
            &["neither model.safetensors nor", "contains chat_template.jinja, ", "in safetensors format"],
        ),
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
fn tensors_that_do_not_fit_the_config() {
    let up = "layers.0.mlp.up_proj";
    let edit = |sandbox: &Sandbox, key: &str, value: Value| {
        edit_header(sandbox, WEIGHTS, |header| {
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
                "but it must be [",
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
            &["models/m: has no tensor", up, "incomplete"],
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
            "too large a shape",
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
            &["are both", "mixes two layouts"],
        ),
        (
            "more layers than in the config",
            &|b| b.edit_json(CONFIG, |c| c["text_config"]["num_hidden_layers"] = json!(1)),
            &["layers.1.input_layernorm", "num_hidden_layers in", "is 1", "download both again"],
        ),
        (
            "fewer",
            &|b| b.edit_json(CONFIG, |c| c["text_config"]["num_hidden_layers"] = json!(1_000_000_000)),
            &["has no tensor", "input_layernorm.weight"],
        ),
    ]);
}

/// A checkpoint in shards, with this index.
fn index(sandbox: &Sandbox, text: impl AsRef<[u8]>) {
    sandbox.remove(WEIGHTS);
    sandbox.put(INDEX, text);
}

#[test]
fn a_single_file_takes_precedence_over_an_index_as_in_transformers() {
    let sandbox = Sandbox::new();
    let config = images(None, "Skip");
    sandbox.put(INDEX, json!({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).to_string());
    sandbox.step(&config).expect_exit("a stale index", 0, &[]);
}

#[test]
fn quantised_checkpoints() {
    let config = |sandbox: &Sandbox, key: &str, value: Value| sandbox.edit_json(CONFIG, |c| c[key] = value);
    let tensor = |sandbox: &Sandbox, ending: &str| {
        edit_header(sandbox, WEIGHTS, |header| {
            let name = named(header, "layers.0.mlp.up_proj");
            let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
            header[name.replace(".weight", ending)] = tensor;
        });
    };
    refused(&[
        (
            "bitsandbytes",
            &|b| {
                config(
                    b,
                    "quantization_config",
                    json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
                );
                // Its tensors have other shapes than the config says.
                edit_header(b, WEIGHTS, |header| {
                    let name = named(header, "layers.0.mlp.up_proj");
                    header[&name]["shape"].as_array_mut().unwrap().reverse();
                });
            },
            &[
                "config.json: field quantization_config: the checkpoint is quantised (bitsandbytes)",
                "use the unquantised checkpoint",
            ],
        ),
        (
            "AWQ of the language model",
            &|b| {
                b.edit_json(CONFIG, |c| {
                    c["text_config"]["quantization_config"] = json!({"quant_method": "awq"})
                })
            },
            &["field text_config.quantization_config: the checkpoint is quantised (awq)"],
        ),
        (
            "MLX",
            &|b| config(b, "quantization", json!({"group_size": 64, "bits": 4})),
            &["field quantization: the checkpoint is quantised"],
        ),
        (
            "AutoGPTQ's own file",
            &|b| b.put("models/m/quantize_config.json", "{}"),
            &["quantize_config.json: the checkpoint is quantised (GPTQ)"],
        ),
        (
            "AWQ without a word",
            &|b| tensor(b, ".qweight"),
            &["up_proj.qweight\" is of a quantised checkpoint"],
        ),
        ("fp8 without a word", &|b| tensor(b, ".weight_scale_inv"), &["quantised checkpoint (fp8)"]),
    ]);
}

#[test]
fn a_damaged_index() {
    refused(&[
        (
            "a shard that is not there",
            &|b| index(b, json!({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).to_string()),
            &[
                "model-00001-of-00002.safetensors: not found, but model.safetensors.index.json lists it",
                "download it again",
            ],
        ),
        ("cut", &|b| index(b, "{\"weight_map\":"), &["index.json: EOF", "download it again"]),
        ("not UTF-8", &|b| index(b, b"{\"\xff\": 1}"), &["index.json: is not UTF-8"]),
        ("no map", &|b| index(b, "{}"), &["index.json: field weight_map is missing"]),
        ("an empty map", &|b| index(b, "{\"weight_map\": {}}"), &["index.json: field weight_map must map"]),
        (
            "out of the folder",
            &|b| index(b, "{\"weight_map\": {\"a\": \"../m/model.safetensors\"}}"),
            &["names of safetensors files in the same folder"],
        ),
        (
            "a folder",
            &|b| index(b, "{\"weight_map\": {\"a\": \"..\"}}"),
            &["names of safetensors files in the same folder"],
        ),
    ]);
}

#[test]
fn an_unusable_config() {
    let text = |sandbox: &Sandbox, key: &str, value: Value| {
        sandbox.edit_json(CONFIG, |config| config["text_config"][key] = value);
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
            &["config.json: field model_type is \"qwen2_vl\"; it must be llava", "an original LLaVA one"],
        ),
        (
            "no architecture",
            &|b| b.edit_json(CONFIG, |c| _ = c.as_object_mut().unwrap().remove("model_type")),
            &["config.json: field model_type is absent; it must be llava"],
        ),
        (
            "another language model",
            &|b| text(b, "model_type", json!("qwen2")),
            &["text_config.model_type is \"qwen2\"; it must be llama or mistral", "Vicuna is a llama"],
        ),
        (
            "another vision tower",
            &|b| b.edit_json(CONFIG, |c| c["vision_config"]["model_type"] = json!("siglip_vision_model")),
            &["vision_config.model_type is \"siglip_vision_model\"; it must be clip_vision_model or clip"],
        ),
        (
            "no object",
            &|b| b.edit_json(CONFIG, |c| c["text_config"] = json!("x")),
            &["field text_config is \"x\"; it must be an object"],
        ),
        (
            "a size as text",
            &|b| text(b, "hidden_size", json!("x")),
            &["text_config.hidden_size is \"x\"; it must be a positive whole"],
        ),
        (
            "a size of 0",
            &|b| text(b, "hidden_size", json!(0)),
            &["text_config.hidden_size is 0; it must be a positive whole"],
        ),
        (
            "heads of an odd size",
            &|b| text(b, "head_dim", json!(47)),
            &["field text_config.head_dim: 47 is odd"],
        ),
        (
            "positions that do not turn",
            &|b| {
                text(b, "rope_parameters", Value::Null);
                text(b, "rope_theta", json!(0));
            },
            &["field text_config.rope_theta: 0 is not above 0"],
        ),
        (
            "half a layer",
            &|b| text(b, "num_hidden_layers", json!(1.5)),
            &["text_config.num_hidden_layers is 1.5; it must be"],
        ),
        (
            "another vocabulary",
            &|b| text(b, "vocab_size", json!(100)),
            &["embed_tokens.weight", "it must be [100, "],
        ),
        (
            "features of no layer",
            &|b| b.edit_json(CONFIG, |c| c["vision_feature_layer"] = json!(-99)),
            &["config.json: field vision_feature_layer: -99 is not one of"],
        ),
        (
            "a class token among tiles",
            &|b| b.edit_json(CONFIG, |c| c["vision_feature_select_strategy"] = json!("full")),
            &[
                "config.json: field vision_feature_select_strategy: the class token has no place",
                "use \"default\"",
            ],
        ),
        (
            "a tower for depth images",
            &|b| b.edit_json(CONFIG, |c| c["vision_config"]["num_channels"] = json!(4)),
            &["field vision_config.num_channels is 4; it must be 3"],
        ),
        (
            "another id of <image>",
            &|b| b.edit_json(CONFIG, |c| c["image_token_index"] = json!(5)),
            &["config.json: field image_token_index (or image_token_id) is 5", "\"<image>\" the id 877"],
        ),
        (
            "features of nothing",
            &|b| b.edit_json(CONFIG, |c| c["vision_feature_layer"] = json!([])),
            &["field vision_feature_layer is []; it must be"],
        ),
    ]);
}

/// The quickstart's model in the layout of the original LLaVA, with its tower's config in a folder.
fn to_original(sandbox: &Sandbox, edit: impl FnOnce(&mut Value)) {
    edit_header(sandbox, WEIGHTS, |header| {
        let tensors = header.as_object().unwrap().clone();
        *header = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let name = name
                    .replace("language_model.lm_head.", "lm_head.")
                    .replace("language_model.model.", "model.")
                    .replace("multi_modal_projector.linear_1", "model.mm_projector.0")
                    .replace("multi_modal_projector.linear_2", "model.mm_projector.2")
                    .replace("image_newline", "model.image_newline");
                let name = match name.strip_prefix("vision_tower.") {
                    Some(rest) => format!("model.vision_tower.vision_tower.vision_model.{rest}"),
                    None => name,
                };
                (name, tensor)
            })
            .collect();
    });
    sandbox.edit_json(CONFIG, |config| {
        let mut original = config["text_config"].clone();
        for (field, value) in [
            ("model_type", json!("llava_mistral")),
            ("mm_vision_tower", json!("openai/toy-clip")),
            ("mm_projector_type", json!("mlp2x_gelu")),
            ("mm_vision_select_layer", json!(-2)),
            ("mm_vision_select_feature", json!("patch")),
            ("mm_patch_merge_type", json!("spatial_unpad")),
            ("image_aspect_ratio", json!("anyres")),
            ("image_grid_pinpoints", config["image_grid_pinpoints"].clone()),
            ("mm_use_im_start_end", json!(false)),
            ("image_token_index", json!(877)),
        ] {
            original[field] = value;
        }
        sandbox.put("models/m/vision_tower/config.json", config["vision_config"].to_string());
        edit(&mut original);
        *config = original;
    });
    let mut processor: Value = serde_json::from_slice(&sandbox.read(PROCESSOR)).unwrap();
    let processor = processor["image_processor"].take();
    sandbox.remove(PROCESSOR);
    sandbox.put("models/m/preprocessor_config.json", processor.to_string());
    sandbox.edit_json("models/m/preprocessor_config.json", |processor| {
        processor["image_processor_type"] = json!("CLIPImageProcessor");
        processor.as_object_mut().unwrap().remove("image_grid_pinpoints");
    });
}

#[test]
fn what_the_original_llava_supports_beyond_its_published_models() {
    let original = |sandbox: &Sandbox, field: &str, value: Value| to_original(sandbox, |c| c[field] = value);
    refused(&[
        (
            "<im_start> and <im_end>",
            &|b| original(b, "mm_use_im_start_end", json!(true)),
            &["config.json: field mm_use_im_start_end: true is not supported", "<im_start> and <im_end>"],
        ),
        ("scales", &|b| original(b, "s2", json!(true)), &["field s2: true is not supported"]),
        (
            "a resampler",
            &|b| original(b, "mm_resampler_type", json!("qformer")),
            &["field mm_resampler_type: "],
        ),
        (
            "a class token among tiles",
            &|b| original(b, "mm_vision_select_feature", json!("cls_patch")),
            &["field mm_vision_select_feature: the class token has no place"],
        ),
        (
            "unknown features",
            &|b| original(b, "mm_vision_select_feature", json!("cls")),
            &["field mm_vision_select_feature is \"cls\"; it must be patch or cls_patch"],
        ),
    ]);
}

#[test]
fn a_tower_with_another_patch_size_is_taken_from_its_own_folder() {
    let score = |sandbox: &Sandbox| {
        let row = json!({"id": "r", "image": "a.jpg", "prompt": "What is it?", "response": "a cat"});
        sandbox.put("rows.jsonl", row.to_string());
        let args = ["score", "--model", "models/m", "--input", "rows.jsonl", "--images", "images"];
        sandbox
            .run(&[&args[..], &["--chat-template", "mistral-instruct"]].concat())
            .expect_exit("", 0, &[])
            .out
    };
    let sandbox = Sandbox::new();
    let expected = score(&sandbox);
    to_original(&sandbox, |_| {});
    assert_eq!(score(&sandbox), expected);
    sandbox.step(&images(None, "Skip")).expect_exit("prepare", 0, &[]);
}

#[test]
fn a_processor_whose_crops_differ_between_images_is_refused_by_prepare() {
    refused(&[(
        "no centre crop",
        &|b| {
            b.edit_json(CONFIG, |c| c["model_type"] = json!("llava"));
            b.edit_json(PROCESSOR, |p| {
                p["image_processor"]["image_processor_type"] = json!("CLIPImageProcessor");
                p["image_processor"]["do_center_crop"] = json!(false);
            });
        },
        &["pixels becomes 1 crops of ", "set do_resize and do_center_crop"],
    )]);
}

#[test]
fn a_gpu_without_cuda() {
    let sandbox = Sandbox::new();
    // It is refused before the artifact is looked for, which does not exist.
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut config = generate(&json!({"inputs": {"model": digest}, "artifacts": [
        {"kind": "Prepared", "location": {"volume": "stic", "path": "absent"}, "digest": digest}]}));
    config["gpus"] = json!(1);
    if !cfg!(feature = "cuda") {
        let wanted = "requests a GPU, but this trainer is built without CUDA; use a trainer image with CUDA";
        sandbox.step(&config).expect_exit("", 64, &[wanted]);
    }
}

#[test]
fn an_unusable_tokenizer_processor_or_template() {
    let token = json!({"id": 999_999, "content": "<more>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let processor = |sandbox: &Sandbox, key: &str, value: Value| {
        sandbox.edit_json(PROCESSOR, |config| config["image_processor"][key] = value);
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
            "a Git LFS pointer as tokenizer",
            &|b| b.put(TOKENIZER, "version https://git-lfs.github.com/spec/v1\n"),
            &["tokenizer.json: ", "git lfs pull"],
        ),
        (
            "a decoder on which tokenizers panics",
            &|b| {
                b.edit_json(TOKENIZER, |t| {
                    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
                    t["decoder"] = json!({"type": "Sequence", "decoders": [strip]});
                });
            },
            &["tokenizer.json: field decoder: a Strip with a stop above 0 is not supported"],
        ),
        (
            "more tokens than the embedding has rows",
            &|b| b.edit_json(TOKENIZER, |t| t["added_tokens"].as_array_mut().unwrap().push(token.clone())),
            &["the tokenizer has token \"<more>\" with id", "vocab_size in config.json is", "same revision"],
        ),
        (
            "a broken tokenizer config",
            &|b| b.put("models/m/tokenizer_config.json", "{"),
            &["tokenizer_config.json: EOF"],
        ),
        (
            "an added token with another id",
            &|b| b.put("models/m/added_tokens.json", "{\"<image>\": 880}"),
            &[
                "models/m/added_tokens.json: gives \"<image>\" the id 880, but tokenizer.json gives it 877;",
                "copy tokenizer.json and added_tokens.json",
            ],
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
            "a template that runs for hours",
            &|b| {
                let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
                b.put("models/m/chat_template.jinja", loops);
            },
            &["chat_template.jinja: ", "fails: ", "fuel"],
        ),
        (
            "a template without the image",
            &|b| b.put("models/m/chat_template.jinja", "Hello"),
            &["leaves the image out"],
        ),
        ("no folder", &|b| b.remove("models/m"), &["spec.model: ./models/m does not exist; "]),
    ]);
}
