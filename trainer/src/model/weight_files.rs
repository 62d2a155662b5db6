//! Which files of a model's folder hold its weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::files::read_text;
use crate::error::{Error, Result};
use crate::io::volumes::contents;

const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The safetensors files of a checkpoint: the single one, as transformers prefers it, or those that its index lists.
///
/// # Errors
/// [`Error::Config`] naming the missing or damaged file.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if index.exists() {
        return files_of_index(dir, &index);
    }
    let pickled = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
    let advice = if pickled {
        "it has pytorch_model.bin only: convert it with transformers' save_pretrained".to_owned()
    } else {
        format!("{}; finish its download, or name a checkpoint in safetensors format", contents(dir))
    };
    Err(Error::Config(format!("{}: neither {SINGLE} nor {INDEX} found; {advice}", dir.display())))
}

fn files_of_index(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = read_text(index)?.unwrap_or_default();
    let bad = |reason: &str| Error::Config(format!("{}: {reason}; download it again", index.display()));
    let json: Value = serde_json::from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("field weight_map is missing"))?;
    let mut names: Vec<&str> = map
        .values()
        .map(|v| v.as_str().filter(|name| name.ends_with(".safetensors") && !name.contains(['/', '\\'])))
        .collect::<Option<_>>()
        .filter(|names: &Vec<&str>| !names.is_empty())
        .ok_or_else(|| {
            bad("field weight_map must map tensors to names of safetensors files in the same folder")
        })?;
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let path = dir.join(name);
            if path.exists() {
                return Ok(path);
            }
            Err(Error::Config(format!(
                "{}: not found, but {INDEX} lists it; download it again",
                path.display()
            )))
        })
        .collect()
}
