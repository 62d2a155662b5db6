//! Compares the modules that an adapter's config selects with those that it has tensors for.

use std::collections::BTreeMap;
use std::path::Path;

use stic_contract::recipe::LoraTarget;

use super::config::AdapterConfig;
use super::names::{Halves, module_names, parse_half};
use crate::error::{Error, Result};

/// How many modules a warning lists.
const LISTED: usize = 4;

/// PEFT ignores tensors of modules that the config does not select, and makes up tensors for selected modules that have
/// none. The first is refused, and so is the second unless what PEFT makes up changes nothing.
///
/// # Errors
/// [`Error::Config`] naming the field.
pub(super) fn check(
    path: &Path,
    config: &AdapterConfig,
    tensors: &BTreeMap<(usize, LoraTarget), Halves>,
    layers: usize,
) -> Result<()> {
    let select = |module: &str| {
        config.targets.select(module).map_err(|(field, reason)| {
            Error::Config(format!(
                "{}: field {field}: {reason}; save the adapter again with PEFT",
                path.display()
            ))
        })
    };
    for ((layer, target), halves) in tensors {
        let own = halves.values().filter_map(|(name, _)| Some(parse_half(name)?.0.to_owned()));
        let mut selected = None;
        for module in own.chain(module_names(*layer, *target)) {
            selected = selected.max(select(&module)?);
        }
        if selected == Some(false) {
            return Err(Error::Config(format!(
                "{}: field target_modules: with exclude_modules and layers_to_transform it leaves out layer {layer}'s {}, for which there are tensors that PEFT would ignore; save the adapter again with PEFT",
                path.display(),
                target.as_str()
            )));
        }
    }
    let mut missing = Vec::new();
    for (layer, target) in (0..layers).flat_map(|layer| LoraTarget::ALL.map(|target| (layer, target))) {
        if tensors.contains_key(&(layer, target)) {
            continue;
        }
        for module in module_names(layer, target) {
            if select(&module)? == Some(true) {
                missing.push(format!("layers.{layer}.{}.{}", target.block(), target.as_str()));
                break;
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let listed = missing.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if !config.fills_with_zeros() {
        return Err(Error::Config(format!(
            "{}: field target_modules: selects {} projections without tensors ({listed}), which PEFT would fill at random by init_lora_weights; save the adapter again with PEFT",
            path.display(),
            missing.len()
        )));
    }
    tracing::warn!(
        file = %path.display(),
        projections = missing.len(),
        first = listed,
        "target_modules selects projections for which the adapter has no tensors; they stay as in the base model"
    );
    Ok(())
}
