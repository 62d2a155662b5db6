#![no_main]
//! A model's `config.json`.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::model::ModelConfig;
use stic_trainer::model::config::{VisionConfig, VisionTowerKind};

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("config.json", bytes)]);
    if let Ok(vision) = VisionConfig::from_tower_dir(folder.path(), VisionTowerKind::Clip) {
        check_vision(&vision);
    }
    let Ok(config) = ModelConfig::from_dir(folder.path()) else { return };
    assert!(!config.vision_feature_layers.is_empty());
    assert!(config.grid_pinpoints.iter().all(|(height, width)| *height > 0 && *width > 0));
    let text = &config.text;
    assert!(text.num_attention_heads.is_multiple_of(text.num_key_value_heads));
    assert!(text.head_dim > 0 && text.num_hidden_layers > 0);
    config.vision.as_ref().map(check_vision);
});

fn check_vision(config: &VisionConfig) {
    assert!(config.side() > 0);
    assert!(config.hidden_size.is_multiple_of(config.num_attention_heads));
}
