//! PEFT adapters, in and out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stic_contract::recipe::LoraTarget;

use super::atomic;
use crate::data::files::{mend_of, read_text, require_regular};
use crate::error::{Error, Result};
use crate::model::config::TextConfig;
use crate::model::lora::{Half, LoraAdapter, LoraPair, projection_shape, tensor_name};

/// The weights.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The config.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The weights as older versions of PEFT wrote them.
const PICKLED_FILE: &str = "adapter_model.bin";
/// What the original LLaVA writes beside an adapter, the projector among it.
const PROJECTOR_FILE: &str = "non_lora_trainables.bin";
/// What PEFT puts before the names of a LLaVA model's language layers.
const PREFIX: &str = "base_model.model.model.language_model.";

/// `adapter_config.json` as PEFT reads it.
#[derive(Debug, Serialize)]
struct AdapterConfig<'a> {
    alpha_pattern: BTreeMap<String, f64>,
    base_model_name_or_path: &'a str,
    bias: &'static str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    lora_alpha: f64,
    lora_dropout: f64,
    modules_to_save: Option<Vec<String>>,
    peft_type: &'static str,
    r: usize,
    rank_pattern: BTreeMap<String, usize>,
    target_modules: String,
    task_type: &'static str,
    use_dora: bool,
    use_rslora: bool,
}

/// The part of an `adapter_config.json` that decides what its tensors mean.
#[derive(Debug, Deserialize)]
struct ReadConfig {
    #[serde(default)]
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, Value>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, Value>,
}

/// An adapter that was read, and what was passed over.
#[derive(Debug)]
pub struct Imported {
    /// The adapter.
    pub adapter: LoraAdapter,
    /// Names of tensors that this model cannot use: the released STIC adapters carry LoRA weights of CLIP that
    /// were never trained.
    pub dropped: Vec<String>,
}

/// Writes `adapter` to the folder `dir` in f32.
///
/// # Errors
/// [`Error::Storage`].
pub fn save(adapter: &LoraAdapter, dir: &Path, base_model: &str) -> Result<()> {
    let tensors: BTreeMap<String, Tensor> = adapter
        .named_vars()
        .into_iter()
        .map(|(name, var)| (format!("{PREFIX}{name}"), var.as_detached_tensor()))
        .collect();
    write_safetensors(&dir.join(WEIGHTS_FILE), &tensors)?;
    let rslora = (adapter.scale() - adapter.alpha() / (adapter.rank() as f64).sqrt()).abs() < 1e-12
        && adapter.rank() != 1;
    let config = AdapterConfig {
        alpha_pattern: BTreeMap::new(),
        base_model_name_or_path: base_model,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        init_lora_weights: true,
        lora_alpha: adapter.alpha(),
        lora_dropout: adapter.dropout(),
        modules_to_save: None,
        peft_type: "LORA",
        r: adapter.rank(),
        rank_pattern: BTreeMap::new(),
        target_modules: target_modules(&adapter.targets()),
        task_type: "CAUSAL_LM",
        use_dora: false,
        use_rslora: rslora,
    };
    let mut json = serde_json::to_value(&config).map_err(|e| Error::Config(e.to_string()))?;
    // PEFT's own files have whole numbers where alpha is whole.
    if adapter.alpha().fract() == 0.0 {
        json["lora_alpha"] = Value::from(adapter.alpha() as i64);
    }
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::Config(e.to_string()))?;
    atomic::write(&dir.join(CONFIG_FILE), format!("{text}\n").as_bytes())
}

/// A pattern for the language model's projections only: a list of names would also wrap CLIP's q, k and v.
fn target_modules(targets: &[LoraTarget]) -> String {
    let of_block = |block: &str| {
        let names: Vec<_> = targets
            .iter()
            .filter(|t| t.block() == block)
            .map(|t| t.as_str().trim_end_matches("_proj"))
            .collect();
        (!names.is_empty()).then(|| format!(r"{block}\.({})_proj", names.join("|")))
    };
    let blocks: Vec<_> = ["self_attn", "mlp"].into_iter().filter_map(of_block).collect();
    format!(r".*language_model\.layers\.\d+\.({})", blocks.join("|"))
}

/// Writes tensors in the order of their names: the same tensors are the same bytes.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    // The metadata is a hash map in safetensors, so it has one entry at most.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let contiguous: Vec<(&String, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let bytes = safetensors::serialize(
        contiguous.iter().map(|(name, tensor)| (name.as_str(), tensor)),
        Some(metadata),
    )
    .map_err(|e| Error::Storage { path: path.to_owned(), source: std::io::Error::other(e.to_string()) })?;
    atomic::write(path, &bytes)
}

/// Reads the adapter in `dir`, in PEFT's names or the original LLaVA's, for a model of `config`.
///
/// # Errors
/// [`Error::Config`] when the folder holds no adapter, one that is not plain LoRA, one of which no tensor matches,
/// or one whose tensors have other shapes.
pub fn load(dir: &Path, config: &TextConfig, device: &Device) -> Result<Imported> {
    let config_path = dir.join(CONFIG_FILE);
    let read = read_config(&config_path)?;
    let path = dir.join(WEIGHTS_FILE);
    require_regular(&path)?;
    let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if dir.join(PICKLED_FILE).exists() => Error::Config(format!(
            "{}: not found, only {PICKLED_FILE}; load it with PEFT and save it with save_pretrained, which writes {WEIGHTS_FILE}",
            path.display()
        )),
        std::io::ErrorKind::NotFound => Error::Config(format!(
            "{}: not found; an adapter folder holds {WEIGHTS_FILE} and {CONFIG_FILE}",
            path.display()
        )),
        _ => Error::storage(&path)(e),
    })?;
    if dir.join(PROJECTOR_FILE).exists() {
        tracing::warn!(
            adapter = %dir.display(),
            "{PROJECTOR_FILE} is left out: the base's projector is used, which is the same unless the adapter trained it"
        );
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
        Error::Config(format!("{}: not a whole safetensors file ({e}); {}", path.display(), mend_of(&bytes)))
    })?;
    let mut halves: BTreeMap<(usize, LoraTarget), BTreeMap<Half, (String, Tensor)>> = BTreeMap::new();
    let mut dropped = Vec::new();
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort();
    for name in names {
        match parse_name(&name) {
            Some((layer, target, half)) if layer < config.num_hidden_layers => {
                if !tensors[&name].dtype().is_float() {
                    return Err(Error::Config(format!(
                        "{}: tensor {name:?} is stored as {:?}; save the adapter in F32, F16 or BF16",
                        path.display(),
                        tensors[&name].dtype()
                    )));
                }
                let tensor = tensors[&name].to_dtype(DType::F32)?;
                halves.entry((layer, target)).or_default().insert(half, (name, tensor));
            }
            _ => dropped.push(name),
        }
    }
    if halves.is_empty() {
        return Err(Error::Config(format!(
            "{}: none of its {} tensors is a LoRA weight of this model's language layers (the first is {:?}); check that the adapter was trained on this model",
            path.display(),
            dropped.len(),
            dropped.first().map_or("", String::as_str)
        )));
    }
    // A name that is no language layer's is left out; one that would be, and is not understood, is an error.
    if let Some(unknown) = dropped.iter().find(|name| !is_vision(name)) {
        return Err(Error::Config(format!(
            "{}: tensor {unknown:?} has no place in this model; check that the adapter was trained on this model, and that it holds LoRA weights of the language model only",
            path.display()
        )));
    }
    let mut layers = vec![BTreeMap::new(); config.num_hidden_layers];
    for ((layer, target), mut pair) in halves {
        let (out, input) = projection_shape(config, target);
        let mut take = |half: Half, shape: (usize, usize)| -> Result<Var> {
            let expected = tensor_name(layer, target, half);
            let (name, tensor) = pair.remove(&half).ok_or_else(|| {
                Error::Config(format!(
                    "{}: tensor {expected} is missing; save the adapter again",
                    path.display()
                ))
            })?;
            if tensor.dims() != [shape.0, shape.1] {
                return Err(Error::Config(format!(
                    "{}: tensor {name:?} has shape {:?}, this model and r {} ask for {:?}; the adapter is of another model",
                    path.display(),
                    tensor.dims(),
                    read.r,
                    [shape.0, shape.1]
                )));
            }
            Ok(Var::from_tensor(&tensor.to_device(device)?)?)
        };
        let pair = LoraPair { a: take(Half::A, (read.r, input))?, b: take(Half::B, (out, read.r))? };
        layers[layer].insert(target, pair);
    }
    let rank = read.r as f64;
    let scale = read.lora_alpha / if read.use_rslora { rank.sqrt() } else { rank };
    let adapter = LoraAdapter::from_parts(read.r, read.lora_alpha, scale, read.lora_dropout, layers);
    Ok(Imported { adapter, dropped })
}

fn read_config(path: &Path) -> Result<ReadConfig> {
    let text = read_text(path)?.ok_or_else(|| {
        Error::Config(format!(
            "{}: not found; an adapter folder holds {WEIGHTS_FILE} and {CONFIG_FILE}",
            path.display()
        ))
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let config: ReadConfig = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        // "." is the whole of it, "?" where the way was lost.
        let field = e.path().to_string();
        let field =
            if matches!(field.as_str(), "." | "?") { String::new() } else { format!("field {field}: ") };
        Error::Config(format!("{}: {field}{}; save the adapter again with PEFT", path.display(), e.inner()))
    })?;
    let refuse = |field: &str, reason: &str| {
        Err(Error::Config(format!("{}: field {field}: {reason}", path.display())))
    };
    if config.peft_type.as_deref().is_some_and(|kind| kind != "LORA") {
        return refuse("peft_type", "only LORA adapters can be used");
    }
    if config.r == 0 {
        return refuse("r", "must be at least 1");
    }
    if config.use_dora {
        return refuse(
            "use_dora",
            "DoRA is not plain LoRA; merge it into the base model and start from that",
        );
    }
    if config.bias.as_deref().is_some_and(|bias| bias != "none") {
        return refuse("bias", "trained biases are not supported; merge the adapter into the base model");
    }
    if config.fan_in_fan_out {
        return refuse("fan_in_fan_out", "must be false for a LLaVA model");
    }
    if config.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()) {
        return refuse(
            "modules_to_save",
            "whole trained modules are not supported; merge the adapter into the base model",
        );
    }
    if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
        return refuse(
            "rank_pattern, alpha_pattern",
            "one rank and one alpha for all projections are supported; merge it into the base model and start from that",
        );
    }
    Ok(config)
}

fn is_vision(name: &str) -> bool {
    name.contains("vision_tower") || name.contains("vision_model") || name.contains("mm_projector")
}

/// (layer, projection, half) of a tensor of the language model, in PEFT's names over any of the layouts.
fn parse_name(name: &str) -> Option<(usize, LoraTarget, Half)> {
    if is_vision(name) {
        return None;
    }
    let (_, rest) = name.split_once("layers.")?;
    let mut parts = rest.split('.');
    let layer = parts.next()?.parse().ok()?;
    let block = parts.next()?;
    let projection = parts.next()?;
    let target = LoraTarget::ALL.into_iter().find(|t| t.as_str() == projection && t.block() == block)?;
    let half = match parts.next()? {
        "lora_A" => Half::A,
        "lora_B" => Half::B,
        _ => return None,
    };
    // `.weight`, or `.default.weight` as a state dict of PEFT in memory has it.
    match (parts.next()?, parts.next(), parts.next()) {
        ("weight", None, None) | ("default", Some("weight"), None) => Some((layer, target, half)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_peft_and_of_the_original_mean_the_same() {
        let expected = Some((3, LoraTarget::UpProj, Half::A));
        for name in [
            "base_model.model.model.language_model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.language_model.model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight",
        ] {
            assert_eq!(parse_name(name), expected, "{name}");
        }
        let clip = "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.lora_A.weight";
        assert_eq!(parse_name(clip), None);
        assert_eq!(parse_name("base_model.model.model.layers.3.mlp.q_proj.lora_A.weight"), None);
    }

    #[test]
    fn the_pattern_names_the_language_model_only() {
        assert_eq!(
            target_modules(&LoraTarget::ALL),
            r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
        );
        assert_eq!(
            target_modules(&[LoraTarget::QProj, LoraTarget::VProj]),
            r".*language_model\.layers\.\d+\.(self_attn\.(q|v)_proj)"
        );
    }
}
