#![no_main]
//! An adapter folder: `adapter_config.json`, and after a NUL `adapter_model.safetensors`.

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use stic_fuzz::{folder, split};
use stic_trainer::checkpoint::adapter;
use stic_trainer::model::config::TextConfig;

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// The smallest language model, of which the seeds have adapters.
const MODEL: TextConfig = TextConfig {
    vocab_size: 8,
    hidden_size: 4,
    intermediate_size: 6,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 2,
    max_position_embeddings: 16,
    rms_norm_eps: 1e-5,
    rope_theta: 1e4,
    rope_factor: 1.0,
    sliding_window: None,
    biased: Vec::new(),
    tie_word_embeddings: false,
};

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&split(bytes, &FILES));
    let Ok(imported) = adapter::load(folder.path(), &MODEL, &Device::Cpu, adapter::TrainedProjector::Refuse) else { return };
    let adapter = imported.adapter;
    assert!(adapter.rank() > 0 && !adapter.targets().is_empty());
    assert!(adapter.scale().is_finite(), "scale {}", adapter.scale());
    let values: usize = adapter.named_vars().iter().map(|(_, var)| var.elem_count()).sum();
    assert!(values <= bytes.len());
});
