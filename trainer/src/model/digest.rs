//! The digest that identifies a model.

use std::fs::File;
use std::path::{Path, PathBuf};

use stic_contract::Digest;
use stic_contract::digest::Hasher;

use super::config::CONFIG_FILE;
use super::families::ModelConfig;
use super::separate_tower::SeparateTower;
use super::weight_files::{INDEX, weight_files};
use super::weights::Weights;
use crate::error::{Error, Result};

/// Files that a checkpoint may have beside its weights and config. The model's output depends on them.
pub(crate) const COMPANION_FILES: [&str; 10] = [
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
];

/// The files that identify a model: the weights, and those that the output depends on.
pub struct DigestedFiles {
    /// The names in the digest and the paths, in the order of the names.
    files: Vec<(String, PathBuf)>,
}

impl DigestedFiles {
    /// Finds the files of the model in `dir`. A vision tower in a folder of its own counts as `vision_tower/`, wherever the
    /// folder is.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no checkpoint; [`Error::Storage`].
    pub fn find(dir: &Path) -> Result<Self> {
        let small_files = [CONFIG_FILE, INDEX].into_iter().chain(COMPANION_FILES);
        let mut paths: Vec<_> =
            small_files.map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
        paths.extend(weight_files(dir)?);
        let mut files: Vec<_> = paths.into_iter().map(|path| (file_name(&path), path)).collect();
        let in_tower = |path: PathBuf| (format!("vision_tower/{}", file_name(&path)), path);
        files.extend(tower_files(dir)?.into_iter().map(in_tower));
        files.sort();
        Ok(Self { files })
    }

    /// The size of all files.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn bytes(&self) -> Result<u64> {
        let size = |(_, path): &(String, PathBuf)| {
            path.metadata().map(|file| file.len()).map_err(Error::storage(path))
        };
        self.files.iter().map(size).sum()
    }

    /// The digest over the names and bytes. `on_progress` is called with the bytes read so far.
    ///
    /// # Errors
    /// [`Error::Storage`]; the first error of `on_progress`.
    pub fn digest(&self, mut on_progress: impl FnMut(u64) -> Result<()>) -> Result<Digest> {
        let mut hasher = Hasher::default();
        let mut total = 0;
        for (name, path) in &self.files {
            let file = File::open(path).map_err(Error::storage(path))?;
            let (digest, bytes) = Digest::of_reader(file).map_err(Error::storage(path))?;
            hasher.update(format!("{name} {digest}\n").as_bytes());
            total += bytes;
            on_progress(total)?;
        }
        Ok(hasher.finish())
    }
}

/// The files that the model uses from the folder of a separate vision tower.
fn tower_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let config = ModelConfig::from_dir(dir)?;
    let weights = Weights::open_to_check(dir, config.family.renames(), candle_core::DType::F32)?;
    let Some(tower) = SeparateTower::find(dir, &config, &weights) else { return Ok(Vec::new()) };
    let mut files = if tower.has_weights { weight_files(&tower.dir)? } else { Vec::new() };
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
    use crate::io::safetensors;

    fn write_weights(dir: &Path, name: &str, value: f32) {
        std::fs::create_dir_all(dir).expect("a folder");
        let tensor = Tensor::new(&[value], &Device::Cpu).expect("a tensor");
        safetensors::write(&dir.join("model.safetensors"), &BTreeMap::from([(name.to_owned(), tensor)]))
            .expect("written");
    }

    fn write_config(dir: &Path, config: &serde_json::Value) {
        std::fs::write(dir.join(CONFIG_FILE), config.to_string()).expect("written");
    }

    fn digest(dir: &Path) -> Digest {
        let mut read = 0;
        let files = DigestedFiles::find(dir).expect("a model");
        let digest = files.digest(|bytes| {
            read = bytes;
            Ok(())
        });
        assert_eq!(files.bytes().expect("their size"), read, "all bytes are announced");
        digest.expect("a digest")
    }

    /// An original LLaVA whose vision tower, of one weight, is in the folder `tower`.
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
    fn the_digest_does_not_depend_on_the_place_of_a_separate_tower() {
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
    fn the_weights_of_a_separate_tower_count_only_where_the_checkpoint_has_none() {
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
