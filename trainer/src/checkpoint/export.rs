//! Exports a model with an adapter merged into it, as transformers saves checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde_json::{Value, json};
use stic_contract::recipe::LoraTarget;

use crate::error::{Error, Result};
use crate::io::{atomic, safetensors};
use crate::model::digest::COMPANION_FILES;
use crate::model::lora::LoraAdapter;
use crate::model::weights::Weights;
use crate::model::{CheckpointLayout, ModelConfig};

/// The largest share of the adapter's change that a merge in bf16 may lose.
const LOST_MAX: f64 = 0.1;

/// The result of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The number of tensors written.
    pub tensors: usize,
    /// The number of projections that the adapter was merged into.
    pub merged: usize,
    /// |merged - (W + delta)| / |delta| over all of them: 0 in f32.
    pub lost: f64,
    /// The files of the weights.
    pub files: Vec<PathBuf>,
}

/// Writes the model in `model_dir` with `adapter` merged into it to the folder `output`, in f32, or in bf16 where
/// that loses at most a tenth of the adapter's change. Shards have at most `max_shard_bytes`.
///
/// # Errors
/// [`Error::Config`] for an output folder that is not empty, a checkpoint of the original layout, and a bf16 merge
/// that loses more. Nothing is then left behind.
pub fn merged(
    model_dir: &Path,
    adapter: &LoraAdapter,
    output: &Path,
    dtype: DType,
    max_shard_bytes: u64,
) -> Result<Report> {
    require_empty(output)?;
    let config = ModelConfig::from_dir(model_dir)?;
    if config.layout == CheckpointLayout::Original {
        return Err(Error::Config(format!(
            "{}: a checkpoint of the original layout cannot be exported merged; convert it with transformers' convert_llava_weights_to_hf.py first, or serve the adapter beside it",
            model_dir.display()
        )));
    }
    let weights = Weights::open(model_dir, config.family.renames(), DType::F32, &Device::Cpu)?;
    let export = Export { weights: &weights, adapter, dtype };
    // A folder that is not whole must not look like a checkpoint.
    atomic::write_dir(output, |draft| {
        let report = export.write_weights(draft, max_shard_bytes)?;
        copy_companions(model_dir, draft, dtype)?;
        Ok(report)
    })
}

/// # Errors
/// [`Error::Config`] when `output` exists and is not an empty folder.
pub fn require_empty(output: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(output) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::storage(output))?,
    };
    if entries.count() == 0 {
        return Ok(());
    }
    Err(Error::Config(format!("{}: is not empty; name a folder that does not exist yet", output.display())))
}

struct Export<'a> {
    weights: &'a Weights,
    adapter: &'a LoraAdapter,
    dtype: DType,
}

/// The squared norms that the loss of a merge is computed from.
#[derive(Default)]
struct Change {
    merged: usize,
    /// Of the rounding of merged weights.
    rounded: f64,
    /// Of the adapter's delta.
    delta: f64,
}

impl Change {
    fn lost(&self) -> f64 {
        if self.delta > 0.0 { (self.rounded / self.delta).sqrt() } else { 0.0 }
    }
}

impl Export<'_> {
    fn write_weights(&self, dir: &Path, max_shard_bytes: u64) -> Result<Report> {
        let names: Vec<String> = self.weights.names().map(str::to_owned).collect();
        let shards = plan_shards(self.weights, &names, self.dtype, max_shard_bytes)?;
        let mut change = Change::default();
        let mut total_bytes = 0;
        let mut map = BTreeMap::new();
        let mut files = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            let file = if shards.len() == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len())
            };
            let mut tensors = BTreeMap::new();
            for name in shard {
                let tensor = self.merged(name, &mut change)?;
                total_bytes += (tensor.elem_count() * self.dtype.size_in_bytes()) as u64;
                map.insert(name.clone(), file.clone());
                tensors.insert(name.clone(), tensor);
            }
            let path = dir.join(&file);
            safetensors::write(&path, &tensors)?;
            files.push(path);
        }
        let lost = change.lost();
        if lost > LOST_MAX {
            return Err(Error::Config(format!(
                "a merge in bf16 loses {:.0}% of the adapter's change: bf16 has too few digits for steps this small; export in f32, or serve the adapter beside the base model",
                lost * 100.0
            )));
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": total_bytes}, "weight_map": map});
            atomic::write(&dir.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
        }
        Ok(Report { tensors: names.len(), merged: change.merged, lost, files })
    }

    /// The tensor to write, and in `change` what the merge did to it.
    fn merged(&self, name: &str, change: &mut Change) -> Result<Tensor> {
        let stored = self.weights.get_stored(name)?;
        let Some(delta) = delta_of(self.adapter, name)? else { return Ok(stored.to_dtype(self.dtype)?) };
        let exact = (stored.to_dtype(DType::F32)? + &delta)?;
        let rounded = exact.to_dtype(self.dtype)?;
        change.rounded += square(&(rounded.to_dtype(DType::F32)? - &exact)?)?;
        change.delta += square(&delta)?;
        change.merged += 1;
        Ok(rounded)
    }
}

fn plan_shards(weights: &Weights, names: &[String], dtype: DType, most: u64) -> Result<Vec<Vec<String>>> {
    let mut shards: Vec<Vec<String>> = vec![Vec::new()];
    let mut size = 0u64;
    for name in names {
        let bytes = (weights.shape(name)?.iter().product::<usize>() * dtype.size_in_bytes()) as u64;
        if size > 0 && size + bytes > most {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(name.clone());
        }
    }
    Ok(shards)
}

/// The adapter's change of the tensor, in f32; `None` for a tensor that it does not adapt.
fn delta_of(adapter: &LoraAdapter, name: &str) -> Result<Option<Tensor>> {
    let parse = || -> Option<(usize, LoraTarget)> {
        let rest = name.strip_prefix("language_model.model.layers.")?.strip_suffix(".weight")?;
        let mut parts = rest.split('.');
        let layer = parts.next()?.parse().ok()?;
        let (block, projection) = (parts.next()?, parts.next()?);
        let target = LoraTarget::ALL.into_iter().find(|t| t.block() == block && t.as_str() == projection)?;
        parts.next().is_none().then_some((layer, target))
    };
    match parse() {
        Some((layer, target)) => {
            Ok(adapter.delta(layer, target)?.map(|d| d.to_device(&Device::Cpu)).transpose()?)
        }
        None => Ok(None),
    }
}

fn square(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?)
}

fn copy_companions(from: &Path, to: &Path, dtype: DType) -> Result<()> {
    for name in COMPANION_FILES {
        let source = from.join(name);
        if source.is_file() {
            // Unlike std::fs::copy, an error names the side that failed.
            let bytes = std::fs::read(&source).map_err(Error::storage(&source))?;
            atomic::write(&to.join(name), &bytes)?;
        }
    }
    // The config names the type of the weights.
    let path = from.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::storage(&path))?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
    let name = if dtype == DType::BF16 { "bfloat16" } else { "float32" };
    set_dtype(&mut config, name);
    atomic::write(&to.join("config.json"), format!("{config:#}\n").as_bytes())
}

fn set_dtype(config: &mut Value, name: &str) {
    let Value::Object(map) = config else { return };
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = map.get_mut(key).filter(|value| value.is_string()) {
            *value = Value::String(name.into());
        }
    }
    for key in ["text_config", "vision_config"] {
        if let Some(nested) = map.get_mut(key) {
            set_dtype(nested, name);
        }
    }
}
