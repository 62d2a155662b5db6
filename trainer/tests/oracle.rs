//! The model against candle-transformers' Llama, Mistral and CLIP, on random weights. Another implementation
//! in Rust, beside the fixtures that transformers made (`parity.rs`).

#![expect(clippy::unwrap_used, reason = "a test ends where its checkpoint is not what it should be")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::Activation;
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use candle_transformers::models::{llama, mistral};
use serde_json::{Value, json};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::data::processor::PixelValues;
use stic_trainer::model::language::Layout;
use stic_trainer::model::{Mode, VisionLanguageModel};

/// Of the largest value: some rounding errors of f32.
const TOLERANCE: f32 = 1e-5;

const VOCABULARY: usize = 99;
const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 48;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const NORM_EPSILON: f64 = 1e-5;
const TOKENS: usize = 24;
/// Tokens that Mistral's attention looks back, the token itself included.
const WINDOW: usize = 7;

const VISION_HIDDEN: usize = 24;
const VISION_INTERMEDIATE: usize = 40;
const VISION_LAYERS: usize = 3;
const VISION_HEADS: usize = 3;
const IMAGE_SIZE: usize = 28;
const PATCH_SIZE: usize = 7;
const CROPS: usize = 2;

#[test]
fn llama_equals_candle_transformers() {
    let checkpoint = Checkpoint::new("llama");
    let config = llama::Config {
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        vocab_size: VOCABULARY,
        num_hidden_layers: LAYERS,
        num_attention_heads: HEADS,
        num_key_value_heads: KV_HEADS,
        use_flash_attn: false,
        rms_norm_eps: NORM_EPSILON,
        rope_theta: 10_000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: TOKENS,
        tie_word_embeddings: false,
    };
    let oracle = llama::Llama::load(checkpoint.var_builder().pp("language_model"), &config).unwrap();
    check_language_model(&checkpoint.load(), |ids| {
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
        oracle.forward(ids, 0, &mut cache).unwrap()
    });
}

#[test]
fn mistral_equals_candle_transformers() {
    let checkpoint = Checkpoint::new("mistral");
    let config = mistral::Config {
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        num_hidden_layers: LAYERS,
        num_attention_heads: HEADS,
        head_dim: None,
        num_key_value_heads: KV_HEADS,
        hidden_act: candle_nn::Activation::Silu,
        max_position_embeddings: TOKENS,
        rms_norm_eps: NORM_EPSILON,
        rope_theta: 10_000.0,
        // candle counts the tokens before the token itself, transformers the token too.
        sliding_window: Some(WINDOW - 1),
        use_flash_attn: false,
    };
    let mut oracle = mistral::Model::new(&config, checkpoint.var_builder().pp("language_model")).unwrap();
    check_language_model(&checkpoint.load(), |ids| {
        oracle.clear_kv_cache();
        oracle.forward(ids, 0).unwrap()
    });
}

/// candle computes all layers with a fixed epsilon of 1e-5; what counts here is the hidden state that LLaVA
/// takes.
#[test]
fn image_features_equal_candle_transformers() {
    let checkpoint = Checkpoint::new("llama");
    let config = ClipVisionConfig {
        embed_dim: VISION_HIDDEN,
        activation: Activation::QuickGelu,
        intermediate_size: VISION_INTERMEDIATE,
        num_hidden_layers: VISION_LAYERS,
        num_attention_heads: VISION_HEADS,
        projection_dim: VISION_HIDDEN,
        num_channels: 3,
        image_size: IMAGE_SIZE,
        patch_size: PATCH_SIZE,
    };
    let weights = checkpoint.var_builder();
    let oracle = ClipVisionTransformer::new(weights.pp("vision_tower.vision_model"), &config).unwrap();
    let shape = (CROPS, 3, IMAGE_SIZE, IMAGE_SIZE);
    let pixels = normal(&[CROPS, 3, IMAGE_SIZE, IMAGE_SIZE], 1.0, "pixels");

    // The second-to-last hidden state, without the class token. candle leaves the embedding out of its list.
    let state = &oracle.output_hidden_states(&pixels).unwrap()[VISION_LAYERS - 2];
    let patches = state.narrow(1, 1, state.dim(1).unwrap() - 1).unwrap();
    let projector = weights.pp("multi_modal_projector");
    let linear_1 = candle_nn::linear(VISION_HIDDEN, HIDDEN, projector.pp("linear_1")).unwrap();
    let linear_2 = candle_nn::linear(HIDDEN, HIDDEN, projector.pp("linear_2")).unwrap();
    let inner = linear_1.forward(&patches).unwrap().gelu_erf().unwrap();
    let expected = linear_2.forward(&inner).unwrap().flatten_to(1).unwrap();

    let data = pixels.flatten_all().unwrap().to_vec1().unwrap();
    let (crops, _, height, width) = shape;
    let pixels = PixelValues { data, crops, height, width, original: (height as u32, width as u32) };
    let found = checkpoint.load().image_features(&pixels, None, &CancellationToken::default()).unwrap();
    assert_close("features", &found, &expected);
}

/// Compares the logits of every token, computed at once and by decoding, with `oracle`'s, which gives those
/// of the last one.
fn check_language_model(model: &VisionLanguageModel, mut oracle: impl FnMut(&Tensor) -> Tensor) {
    let language = &model.language;
    let mut draw = Draw::new(1, "ids", "oracle");
    let ids: Vec<u32> = (0..TOKENS).map(|_| draw.below(VOCABULARY as u64) as u32).collect();
    let embeddings = language.embed(&ids).unwrap();
    let layout = Layout::branching(TOKENS, &[], language.config().sliding_window);
    let hidden = language.forward(&embeddings, &layout, None, &CancellationToken::default()).unwrap();
    let at_once = language.logits(&hidden, Mode::Inference).unwrap();
    let mut cache = language.new_cache(TOKENS);
    for token in 0..TOKENS {
        let prefix = Tensor::new(&ids[..=token], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let expected = oracle(&prefix).flatten_all().unwrap();
        assert_close(&format!("token {token}"), &at_once.get(token).unwrap(), &expected);
        let embedding = embeddings.narrow(0, token, 1).unwrap();
        let hidden = language.decode(&embedding, &mut [&mut cache], None).unwrap();
        let decoded = language.logits(&hidden, Mode::Decoding).unwrap();
        assert_close(&format!("decoded token {token}"), &decoded.flatten_all().unwrap(), &expected);
    }
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let largest = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let (off, size) = (largest(&(found - expected).unwrap()), largest(expected));
    assert!(size > 0.1 && off <= TOLERANCE * size, "{what}: off by {off} of {size}");
}

/// A LLaVA checkpoint of random weights.
struct Checkpoint {
    dir: tempfile::TempDir,
    tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// `text_model` is the `model_type` of the language model.
    fn new(text_model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tensors = language_tensors().chain(vision_tensors()).map(|(name, shape)| {
            let fan_in: usize = shape[1..].iter().product();
            // Norms have weights of about one and a bias of about zero.
            let deviation = if shape.len() == 1 { 0.2 } else { 1.0 / (fan_in as f64).sqrt() };
            let tensor = normal(&shape, deviation, &name);
            let one = name.contains("norm") && name.ends_with("weight");
            (name, if one { (tensor + 1.0).unwrap() } else { tensor })
        });
        let tensors: HashMap<String, Tensor> = tensors.collect();
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        std::fs::write(dir.path().join("config.json"), config(text_model).to_string()).unwrap();
        Self { dir, tensors }
    }

    fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu)
    }

    fn load(&self) -> VisionLanguageModel {
        VisionLanguageModel::load(Path::new(self.dir.path()), DType::F32, &Device::Cpu).unwrap()
    }
}

fn config(text_model: &str) -> Value {
    json!({
        "model_type": "llava",
        "image_token_index": VOCABULARY - 1,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "model_type": text_model,
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "rms_norm_eps": NORM_EPSILON,
            "max_position_embeddings": TOKENS,
            "sliding_window": WINDOW,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_INTERMEDIATE,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": VISION_HEADS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
    })
}

type NamedShape = (String, Vec<usize>);

fn language_tensors() -> impl Iterator<Item = NamedShape> {
    let kv_width = HIDDEN / HEADS * KV_HEADS;
    let layers = (0..LAYERS).flat_map(move |layer| {
        [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![kv_width, HIDDEN]),
            ("self_attn.v_proj", vec![kv_width, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ]
        .map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape))
    });
    let rest = [
        ("model.embed_tokens", vec![VOCABULARY, HIDDEN]),
        ("model.norm", vec![HIDDEN]),
        ("lm_head", vec![VOCABULARY, HIDDEN]),
    ];
    layers
        .chain(rest.map(|(name, shape)| (name.to_owned(), shape)))
        .map(|(name, shape)| (format!("language_model.{name}.weight"), shape))
}

fn vision_tensors() -> impl Iterator<Item = NamedShape> {
    let (hidden, inner) = (VISION_HIDDEN, VISION_INTERMEDIATE);
    let tower = "vision_tower.vision_model";
    let layers = (0..VISION_LAYERS).flat_map(move |layer| {
        [
            ("layer_norm1", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden, hidden]),
            ("self_attn.v_proj", vec![hidden, hidden]),
            ("self_attn.out_proj", vec![hidden, hidden]),
            ("layer_norm2", vec![hidden]),
            ("mlp.fc1", vec![inner, hidden]),
            ("mlp.fc2", vec![hidden, inner]),
        ]
        .map(|(name, shape)| (format!("{tower}.encoder.layers.{layer}.{name}"), shape))
    });
    let biased = layers.chain([
        (format!("{tower}.pre_layrnorm"), vec![hidden]),
        (format!("{tower}.post_layernorm"), vec![hidden]),
        ("multi_modal_projector.linear_1".to_owned(), vec![HIDDEN, hidden]),
        ("multi_modal_projector.linear_2".to_owned(), vec![HIDDEN, HIDDEN]),
    ]);
    let positions = (IMAGE_SIZE / PATCH_SIZE).pow(2) + 1;
    biased
        .flat_map(|(name, shape)| {
            let bias = vec![shape[0]];
            [(format!("{name}.weight"), shape), (format!("{name}.bias"), bias)]
        })
        .chain([
            (format!("{tower}.embeddings.class_embedding"), vec![hidden]),
            (format!("{tower}.embeddings.patch_embedding.weight"), vec![hidden, 3, PATCH_SIZE, PATCH_SIZE]),
            (format!("{tower}.embeddings.position_embedding.weight"), vec![positions, hidden]),
        ])
}

fn normal(shape: &[usize], deviation: f64, name: &str) -> Tensor {
    let mut draw = Draw::new(1, name, "oracle");
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (draw.normal() * deviation) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
