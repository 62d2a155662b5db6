//! `adapter_config.json`, as PEFT writes and reads it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stic_contract::recipe::LoraTarget;

use super::fields::unsupported;
use super::files::{CONFIG_FILE, WEIGHTS_FILE};
use super::names::AdapterNames;
use super::targets::TargetModules;
use crate::data::files::read_json;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::model::lora::LoraAdapter;

#[derive(Debug, Serialize)]
struct WrittenConfig<'a> {
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

/// The fields that the meaning of an adapter's tensors depends on.
#[derive(Debug, Deserialize)]
pub(super) struct AdapterConfig {
    pub(super) r: usize,
    pub(super) lora_alpha: f64,
    #[serde(default)]
    pub(super) lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    init_lora_weights: Value,
    /// Its own pass over the file: flattened here, its fields would take the path out of the others' errors.
    #[serde(skip)]
    pub(super) targets: TargetModules,
}

impl AdapterConfig {
    /// The factor of B A x.
    pub(super) fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether PEFT gives a selected module without tensors an adapter that changes nothing.
    pub(super) fn fills_with_zeros(&self) -> bool {
        match &self.init_lora_weights {
            Value::Bool(false) => false,
            Value::String(method) => method == "gaussian",
            _ => true,
        }
    }

    /// # Errors
    /// [`Error::Config`] naming the field, for a missing or damaged file and for anything but plain LoRA.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let object = read_json(path)?.ok_or_else(|| {
            Error::Config(format!(
                "{}: not found; an adapter folder holds {WEIGHTS_FILE} and {CONFIG_FILE}",
                path.display()
            ))
        })?;
        if let Some((field, reason)) = unsupported(&object) {
            return Err(Error::Config(format!("{}: field {field}: {reason}", path.display())));
        }
        let object = Value::Object(object);
        let parsed = serde_path_to_error::deserialize(object.clone()).and_then(|config: Self| {
            Ok(Self { targets: serde_path_to_error::deserialize(object)?, ..config })
        });
        parsed.map_err(|e| {
            // serde_path_to_error writes "." for the whole object and "?" for an unknown position.
            let field = e.path().to_string();
            let field =
                if matches!(field.as_str(), "." | "?") { String::new() } else { format!("field {field}: ") };
            Error::Config(format!(
                "{}: {field}{}; save the adapter again with PEFT",
                path.display(),
                e.inner()
            ))
        })
    }
}

/// Writes the config of `adapter` to the folder `dir`.
pub(super) fn write(adapter: &LoraAdapter, dir: &Path, base_model: &str, names: AdapterNames) -> Result<()> {
    let rslora = (adapter.scale() - adapter.alpha() / (adapter.rank() as f64).sqrt()).abs() < 1e-12
        && adapter.rank() != 1;
    let config = WrittenConfig {
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
        target_modules: target_modules(&adapter.targets_by_layer(), names),
        task_type: "CAUSAL_LM",
        use_dora: false,
        use_rslora: rslora,
    };
    let mut json = serde_json::to_value(&config).map_err(|e| Error::Config(e.to_string()))?;
    // PEFT writes a whole alpha without a fraction.
    if adapter.alpha().fract() == 0.0 {
        json["lora_alpha"] = Value::from(adapter.alpha() as i64);
    }
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::Config(e.to_string()))?;
    atomic::write(&dir.join(CONFIG_FILE), format!("{text}\n").as_bytes())
}

/// A pattern that matches exactly the projections that each layer adapts. A list of names would also match CLIP's q, k
/// and v, and every layer.
fn target_modules(layers: &[Vec<LoraTarget>], names: AdapterNames) -> String {
    let prefix = names.layer_pattern();
    if let [first, rest @ ..] = layers
        && !first.is_empty()
        && rest.iter().all(|targets| targets == first)
    {
        return format!(r"{prefix}\d+\.{}", projections(first));
    }
    let mut groups: BTreeMap<&[LoraTarget], Vec<String>> = BTreeMap::new();
    for (number, targets) in layers.iter().enumerate().filter(|(_, targets)| !targets.is_empty()) {
        groups.entry(targets).or_default().push(number.to_string());
    }
    let groups: Vec<_> = groups
        .into_iter()
        .map(|(targets, numbers)| format!(r"({})\.{}", numbers.join("|"), projections(targets)))
        .collect();
    format!("{prefix}({})", groups.join("|"))
}

fn projections(targets: &[LoraTarget]) -> String {
    let of_block = |block: &str| {
        let names: Vec<_> = targets
            .iter()
            .filter(|t| t.block() == block)
            .map(|t| t.as_str().trim_end_matches("_proj"))
            .collect();
        (!names.is_empty()).then(|| format!(r"{block}\.({})_proj", names.join("|")))
    };
    let blocks: Vec<_> = ["self_attn", "mlp"].into_iter().filter_map(of_block).collect();
    format!("({})", blocks.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_matches_the_language_model_only() {
        let pattern = |targets: &[LoraTarget], names| target_modules(&vec![targets.to_vec(); 4], names);
        assert_eq!(
            pattern(&LoraTarget::ALL, AdapterNames::Transformers),
            r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
        );
        let some = [LoraTarget::QProj, LoraTarget::VProj];
        for (names, expected) in [
            (AdapterNames::Transformers, r".*language_model\.layers\.\d+\.(self_attn\.(q|v)_proj)"),
            (
                AdapterNames::TransformersBefore452,
                r".*language_model\.model\.layers\.\d+\.(self_attn\.(q|v)_proj)",
            ),
            (AdapterNames::OriginalLlava, r"model\.layers\.\d+\.(self_attn\.(q|v)_proj)"),
        ] {
            assert_eq!(pattern(&some, names), expected);
        }
    }

    #[test]
    fn the_pattern_of_an_adapter_over_some_layers_matches_exactly_those() {
        let (q, up) = (LoraTarget::QProj, LoraTarget::UpProj);
        let layers = [vec![q, up], vec![], vec![q], vec![q, up]];
        let pattern = target_modules(&layers, AdapterNames::Transformers);
        assert_eq!(
            pattern,
            r".*language_model\.layers\.((2)\.(self_attn\.(q)_proj)|(0|3)\.(self_attn\.(q)_proj|mlp\.(up)_proj))"
        );
        let targets: TargetModules =
            serde_json::from_value(serde_json::json!({"target_modules": pattern})).expect("valid");
        for (layer, expected) in layers.iter().enumerate() {
            for target in LoraTarget::ALL {
                let module =
                    format!("model.language_model.layers.{layer}.{}.{}", target.block(), target.as_str());
                assert_eq!(targets.select(&module), Ok(Some(expected.contains(&target))), "{module}");
            }
        }
        let ten = vec![vec![]; 10].into_iter().chain([vec![q]]).collect::<Vec<_>>();
        assert_eq!(
            target_modules(&ten, AdapterNames::Transformers),
            r".*language_model\.layers\.((10)\.(self_attn\.(q)_proj))"
        );
    }
}
