//! PEFT adapters, read and written.

mod config;
mod fields;
mod files;
mod names;
mod selection;
mod targets;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use stic_contract::Digest;
use stic_contract::digest::Hasher;
use stic_contract::recipe::LoraTarget;

use self::config::AdapterConfig;
use self::files::{PICKLED_FILE, PROJECTOR_FILE};
use self::names::{Halves, other_part, parse_half, parse_module};
use crate::data::files::{damage_advice, require_regular};
use crate::error::{Error, Result};
use crate::io::artifact::{read_marker, verify};
use crate::io::{file_digest, safetensors};
use crate::model::config::TextConfig;
use crate::model::lora::{Half, LoraAdapter, LoraPair, projection_shape, tensor_name};

pub use self::files::{CONFIG_FILE, WEIGHTS_FILE};
pub use self::names::AdapterNames;

/// An adapter that was read.
#[derive(Debug)]
pub struct Imported {
    pub adapter: LoraAdapter,
    /// Names of ignored tensors, which change nothing: the released STIC adapters carry LoRA weights of CLIP that were
    /// never trained.
    pub dropped: Vec<String>,
}

/// What to do with an adapter whose training also changed the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedProjector {
    /// It is an error, because the base with the adapter alone is another model.
    Refuse,
    /// The base model's projector is used.
    Ignore,
}

/// The LoRA tensors of an adapter file.
struct FileTensors {
    /// Those of the language model, by their place in it.
    language: BTreeMap<(usize, LoraTarget), Halves>,
    /// Those of the other parts, by module.
    others: BTreeMap<String, Halves>,
}

/// Writes `adapter` to the folder `dir` in f32, under `names`.
///
/// # Errors
/// [`Error::Storage`].
pub fn save(adapter: &LoraAdapter, dir: &Path, base_model: &str, names: AdapterNames) -> Result<()> {
    let tensors: BTreeMap<String, Tensor> = adapter
        .named_vars()
        .into_iter()
        .map(|(name, var)| (names.tensor(&name), var.as_detached_tensor()))
        .collect();
    safetensors::write(&dir.join(WEIGHTS_FILE), &tensors)?;
    config::write(adapter, dir, base_model, names)
}

/// Reads the adapter in `dir`, in PEFT's names or the original LLaVA's, for a model of `config`.
///
/// # Errors
/// [`Error::Config`] when the folder holds no adapter, one that is not plain LoRA, one of which no tensor matches,
/// one whose tensors have other shapes, or one that adapts more than the language model; [`Error::Data`] when it is an
/// artifact that was changed.
pub fn load(
    dir: &Path,
    config: &TextConfig,
    device: &Device,
    projector: TrainedProjector,
) -> Result<Imported> {
    if let Some(marker) = read_marker(dir)? {
        verify(dir, &marker)?;
    }
    let config_path = dir.join(CONFIG_FILE);
    let adapter_config = AdapterConfig::read(&config_path)?;
    let path = dir.join(WEIGHTS_FILE);
    let tensors = read_tensors(dir, &path)?;
    require_untrained_projector(dir, projector)?;
    let FileTensors { language, others } = sort_tensors(&path, &tensors, config)?;
    selection::check(&config_path, &adapter_config, &language, config.num_hidden_layers)?;
    let mut layers = vec![BTreeMap::new(); config.num_hidden_layers];
    for ((layer, target), mut pair) in language {
        let (out, input) = projection_shape(config, target);
        let rank = adapter_config.r;
        let mut take = |half: Half, shape: [usize; 2]| -> Result<Var> {
            let expected = tensor_name(layer, target, half);
            let (name, tensor) = pair.remove(&half).ok_or_else(|| {
                Error::Config(format!(
                    "{}: tensor {expected} is missing; save the adapter again",
                    path.display()
                ))
            })?;
            require_gathered(&path, &name, &tensor)?;
            if tensor.dims() != shape {
                return Err(Error::Config(format!(
                    "{}: tensor {name:?} has shape {:?}, but it must be {shape:?} by this model and r {rank}; use an adapter of this model",
                    path.display(),
                    tensor.dims(),
                )));
            }
            if !is_finite(&tensor)? {
                return Err(Error::Config(format!(
                    "{}: tensor {name:?} holds a value that is not finite, so its training diverged; use an earlier checkpoint of it",
                    path.display()
                )));
            }
            Ok(Var::from_tensor(&tensor.to_device(device)?)?)
        };
        let pair = LoraPair { a: take(Half::A, [rank, input])?, b: take(Half::B, [out, rank])? };
        layers[layer].insert(target, pair);
    }
    let dropped = drop_untrained(&path, &others)?;
    let adapter = LoraAdapter::from_parts(
        adapter_config.r,
        adapter_config.lora_alpha,
        adapter_config.scale(),
        adapter_config.lora_dropout,
        layers,
    );
    Ok(Imported { adapter, dropped })
}

/// The digest that identifies the adapter in `dir`: an artifact's own, else one over both files of a user's folder, since
/// the same tensors are another adapter with another `lora_alpha`.
///
/// # Errors
/// [`Error::Storage`].
pub fn digest(dir: &Path) -> Result<Digest> {
    if let Some(marker) = read_marker(dir)? {
        return Ok(marker.digest);
    }
    let mut hasher = Hasher::default();
    for name in [CONFIG_FILE, WEIGHTS_FILE] {
        hasher.update(format!("{name} {}\n", file_digest(&dir.join(name))?).as_bytes());
    }
    Ok(hasher.finish())
}

fn read_tensors(dir: &Path, path: &Path) -> Result<HashMap<String, Tensor>> {
    require_regular(path)?;
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if dir.join(PICKLED_FILE).exists() => Error::Config(format!(
            "{}: not found, only {PICKLED_FILE}; load it with PEFT and save it with save_pretrained, which writes {WEIGHTS_FILE}",
            path.display()
        )),
        std::io::ErrorKind::NotFound => Error::Config(format!(
            "{}: not found; an adapter folder holds {WEIGHTS_FILE} and {CONFIG_FILE}",
            path.display()
        )),
        _ => Error::storage(path)(e),
    })?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
        Error::Config(format!(
            "{}: not a valid safetensors file ({e}); {}",
            path.display(),
            damage_advice(&bytes)
        ))
    })
}

fn require_untrained_projector(dir: &Path, projector: TrainedProjector) -> Result<()> {
    let path = dir.join(PROJECTOR_FILE);
    if projector == TrainedProjector::Ignore || !path.exists() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{}: holds the projector that LLaVA's own LoRA training changes, and the adapter without it is another model; merge the adapter with LLaVA's scripts/merge_lora_weights.py and start from that, or, if the projector is the base model's, remove this file (stic-trainer score and export also have --ignore-trained-projector)",
        path.display()
    )))
}

/// The LoRA tensors of the language model in f32, and those of the vision tower and the projector.
fn sort_tensors(path: &Path, tensors: &HashMap<String, Tensor>, config: &TextConfig) -> Result<FileTensors> {
    let mut sorted = FileTensors { language: BTreeMap::new(), others: BTreeMap::new() };
    let mut unknown = None;
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort();
    for name in names {
        let tensor = &tensors[&name];
        let Some((module, half)) = parse_half(&name) else {
            unknown = unknown.or(Some(name));
            continue;
        };
        let halves = match parse_module(module) {
            Some((layer, target)) if layer < config.num_hidden_layers => {
                sorted.language.entry((layer, target)).or_default()
            }
            None if other_part(module).is_some() => sorted.others.entry(module.to_owned()).or_default(),
            _ => {
                unknown = unknown.or(Some(name));
                continue;
            }
        };
        if !tensor.dtype().is_float() {
            return Err(Error::Config(format!(
                "{}: tensor {name:?} is stored as {:?}; save the adapter in F32, F16 or BF16",
                path.display(),
                tensor.dtype()
            )));
        }
        match halves.entry(half) {
            Entry::Vacant(entry) => entry.insert((name, tensor.to_dtype(DType::F32)?)),
            Entry::Occupied(entry) => {
                return Err(Error::Config(format!(
                    "{}: tensors {:?} and {name:?} are of the same projection; save the adapter again",
                    path.display(),
                    entry.get().0
                )));
            }
        };
    }
    if sorted.language.is_empty() {
        return Err(Error::Config(format!(
            "{}: none of its {} tensors is a LoRA weight of this model's language layers (the first is {:?}); check that the adapter was trained on this model",
            path.display(),
            tensors.len(),
            tensors.keys().min().map_or("", String::as_str)
        )));
    }
    match unknown {
        Some(unknown) => Err(Error::Config(format!(
            "{}: tensor {unknown:?} does not belong to this model; check that the adapter was trained on this model, and that it holds LoRA weights of the language model only",
            path.display()
        ))),
        None => Ok(sorted),
    }
}

/// DeepSpeed's ZeRO-3 leaves an empty tensor in place of each that another process holds.
fn require_gathered(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.elem_count() > 0 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{}: tensor {name:?} is empty, as in a checkpoint of DeepSpeed ZeRO-3 whose weights were not gathered; save it again with stage3_gather_16bit_weights_on_model_save, or convert it with zero_to_fp32.py",
        path.display()
    )))
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}

/// The names of the tensors outside of the language model, which must change nothing: B A is zero.
fn drop_untrained(path: &Path, others: &BTreeMap<String, Halves>) -> Result<Vec<String>> {
    let mut dropped = Vec::new();
    for (module, halves) in others {
        // PEFT fills a missing B with zeros.
        let mut changes_nothing = !halves.contains_key(&Half::B);
        for (name, tensor) in halves.values() {
            require_gathered(path, name, tensor)?;
            changes_nothing |= tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| *value == 0.0);
            dropped.push(name.clone());
        }
        if !changes_nothing {
            return Err(Error::Config(format!(
                "{}: the adapter trained {} ({module:?} has a lora_B that is not zero), which is not supported; merge the adapter into the base model with PEFT and start from that",
                path.display(),
                other_part(module).unwrap_or("another part of the model")
            )));
        }
    }
    Ok(dropped)
}
