//! What a model is known by.

use std::fs::File;
use std::path::{Path, PathBuf};

use stic_contract::Digest;
use stic_contract::digest::Hasher;

use super::config::{CONFIG_FILE, LlavaConfig};
use super::llava::SeparateTower;
use super::weights::{Weights, checkpoint_files};
use crate::error::{Error, Result};

/// Files beside the weights that decide what a model makes of its input.
const DECIDING: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
];

/// Over the names and bytes of the weights and of the files that decide what is made of the input, in the order
/// of their names; `seen` is told the bytes read so far. A vision tower in a folder of its own counts as
/// `vision_tower/`, wherever the folder is.
///
/// # Errors
/// Those of reading; [`Error::Config`] when there is no checkpoint.
pub fn model_digest(dir: &Path, mut seen: impl FnMut(u64) -> Result<()>) -> Result<Digest> {
    let mut paths: Vec<_> =
        DECIDING.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
    paths.extend(checkpoint_files(dir)?);
    let mut files: Vec<_> = paths.into_iter().map(|path| (file_name(&path), path)).collect();
    let in_tower = |path: PathBuf| (format!("vision_tower/{}", file_name(&path)), path);
    files.extend(tower_files(dir)?.into_iter().map(in_tower));
    files.sort();
    let mut hasher = Hasher::default();
    let mut total = 0;
    for (name, path) in files {
        let file = File::open(&path).map_err(Error::storage(&path))?;
        let (digest, bytes) = Digest::of_reader(file).map_err(Error::storage(&path))?;
        hasher.update(format!("{name} {digest}\n").as_bytes());
        total += bytes;
        seen(total)?;
    }
    Ok(hasher.finish())
}

/// What the model takes from its vision tower's own folder.
fn tower_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let config = LlavaConfig::from_dir(dir)?;
    let Some(tower) = SeparateTower::of(dir, &config, &Weights::open_to_check(dir)?) else {
        return Ok(Vec::new());
    };
    let mut files = if tower.has_weights { checkpoint_files(&tower.dir)? } else { Vec::new() };
    files.push(tower.dir.join(CONFIG_FILE));
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor};
    use serde_json::json;

    use super::*;
    use crate::io::adapter::write_safetensors;

    fn write_weights(dir: &Path, name: &str, value: f32) {
        std::fs::create_dir_all(dir).expect("a folder");
        let tensor = Tensor::new(&[value], &Device::Cpu).expect("a tensor");
        write_safetensors(&dir.join("model.safetensors"), &BTreeMap::from([(name.to_owned(), tensor)]))
            .expect("written");
    }

    fn write_config(dir: &Path, config: &serde_json::Value) {
        std::fs::write(dir.join(CONFIG_FILE), config.to_string()).expect("written");
    }

    fn digest(dir: &Path) -> Digest {
        model_digest(dir, |_| Ok(())).expect("a digest")
    }

    /// An original LLaVA that leaves its tower, of one weight, to the folder `tower`.
    fn original(root: &Path, tower: &str, value: f32) -> PathBuf {
        let dir = root.join("llava");
        write_weights(&dir, "lm_head.weight", 1.0);
        write_config(
            &dir,
            &json!({"model_type": "llava_llama", "mm_vision_tower": "openai/clip-tiny",
            "mm_projector_type": "mlp2x_gelu"}),
        );
        let tower = dir.join(tower);
        write_weights(&tower, "vision_model.embeddings.class_embedding", value);
        write_config(&tower, &json!({"model_type": "clip_vision_model"}));
        dir
    }

    #[test]
    fn a_tower_of_its_own_counts_wherever_it_lies() {
        let digest_of = |tower: &str, value: f32| {
            let root = tempfile::tempdir().expect("a folder");
            digest(&original(root.path(), tower, value))
        };
        let inside = digest_of("vision_tower", 1.0);
        assert_eq!(digest_of("clip-tiny", 1.0), inside);
        assert_eq!(digest_of("../clip-tiny", 1.0), inside);
        for place in ["vision_tower", "clip-tiny", "../clip-tiny"] {
            assert_ne!(digest_of(place, 2.0), inside, "{place}");
        }
    }

    #[test]
    fn of_a_tower_whose_weights_the_checkpoint_has_the_config_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = original(root.path(), "vision_tower", 1.0);
        write_weights(&dir, "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding", 1.0);
        let with_unused_weights = digest(&dir);
        std::fs::remove_file(dir.join("vision_tower/model.safetensors")).expect("removed");
        let before = digest(&dir);
        assert_eq!(before, with_unused_weights);
        write_config(
            &dir.join("vision_tower"),
            &json!({"model_type": "clip_vision_model", "patch_size": 14}),
        );
        assert_ne!(digest(&dir), before);
    }
}
