//! What a model is known by.

use std::fs::File;
use std::path::Path;

use stic_contract::Digest;
use stic_contract::digest::Hasher;

use super::weights::checkpoint_files;
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
/// of their names; `seen` is told the bytes read so far.
///
/// # Errors
/// Those of reading; [`Error::Config`] when there is no checkpoint.
pub fn model_digest(dir: &Path, mut seen: impl FnMut(u64) -> Result<()>) -> Result<Digest> {
    let mut paths: Vec<_> =
        DECIDING.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
    paths.extend(checkpoint_files(dir)?);
    let tower = dir.join("vision_tower");
    if tower.is_dir() {
        paths.push(tower.join("config.json"));
        paths.extend(checkpoint_files(&tower)?);
    }
    paths.sort();
    let mut hasher = Hasher::default();
    let mut total = 0;
    for path in paths {
        let file = File::open(&path).map_err(Error::storage(&path))?;
        let (digest, bytes) = Digest::of_reader(file).map_err(Error::storage(&path))?;
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        hasher.update(format!("{name} {digest}\n").as_bytes());
        total += bytes;
        seen(total)?;
    }
    Ok(hasher.finish())
}
