//! The names of an adapter's tensors and modules.

use std::collections::BTreeMap;

use candle_core::Tensor;
use stic_contract::recipe::LoraTarget;

use crate::model::lora::Half;

/// The two tensors of a module, each with its name in the file.
pub(super) type Halves = BTreeMap<Half, (String, Tensor)>;

/// Whose names an adapter is written in. They depend on how the model's class nests the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterNames {
    /// transformers 4.52 and later: `model.language_model.layers`.
    Transformers,
    /// transformers before 4.52: `language_model.model.layers`.
    TransformersBefore452,
    /// The original LLaVA's classes: `model.layers`.
    OriginalLlava,
}

impl AdapterNames {
    const ALL: [Self; 3] = [Self::Transformers, Self::TransformersBefore452, Self::OriginalLlava];

    const fn layers(self) -> &'static str {
        match self {
            Self::Transformers => "model.language_model.layers",
            Self::TransformersBefore452 => "language_model.model.layers",
            Self::OriginalLlava => "model.layers",
        }
    }

    /// The name in a file of the tensor with this canonical name.
    pub(super) fn tensor(self, canonical: &str) -> String {
        let rest = canonical.strip_prefix("layers").unwrap_or(canonical);
        format!("base_model.model.{}{rest}", self.layers())
    }

    /// A pattern for the name of a layer, up to its number. It matches no layer of CLIP.
    pub(super) const fn layer_pattern(self) -> &'static str {
        match self {
            Self::Transformers => r".*language_model\.layers\.",
            Self::TransformersBefore452 => r".*language_model\.model\.layers\.",
            Self::OriginalLlava => r"model\.layers\.",
        }
    }
}

/// The names that a projection of the language model has in the different classes.
pub(super) fn module_names(layer: usize, target: LoraTarget) -> [String; 3] {
    AdapterNames::ALL
        .map(|names| format!("{}.{layer}.{}.{}", names.layers(), target.block(), target.as_str()))
}

/// The part of a model outside of the language model that the tensor belongs to.
pub(super) fn other_part(name: &str) -> Option<&'static str> {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if has(&["mm_projector", "multi_modal_projector"]) {
        Some("the projector")
    } else if has(&["vision_tower", "vision_model"]) {
        Some("the vision tower")
    } else {
        None
    }
}

/// The name of the module that a LoRA tensor belongs to, and which half it is.
pub(super) fn parse_half(name: &str) -> Option<(&str, Half)> {
    // `.weight`, or `.default.weight` as in the state dict of a PEFT model in memory.
    let name = name.strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, half) = match (name.strip_suffix(".lora_A"), name.strip_suffix(".lora_B")) {
        (Some(module), _) => (module, Half::A),
        (None, Some(module)) => (module, Half::B),
        (None, None) => return None,
    };
    Some((module.strip_prefix("base_model.model.").unwrap_or(module), half))
}

/// (layer, projection) of a module of the language model, by its name in any class.
pub(super) fn parse_module(module: &str) -> Option<(usize, LoraTarget)> {
    if other_part(module).is_some() {
        return None;
    }
    let (_, rest) = module.split_once("layers.")?;
    let [layer, block, projection] = rest.split('.').collect::<Vec<_>>().try_into().ok()?;
    let target = LoraTarget::ALL.into_iter().find(|t| t.as_str() == projection && t.block() == block)?;
    Some((layer.parse().ok()?, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<(usize, LoraTarget, Half)> {
        let (module, half) = parse_half(name)?;
        let (layer, target) = parse_module(module)?;
        Some((layer, target, half))
    }

    #[test]
    fn names_of_peft_and_of_the_original_llava_are_understood() {
        let expected = Some((3, LoraTarget::UpProj, Half::A));
        for name in [
            "base_model.model.model.language_model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.language_model.model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.3.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight",
        ] {
            assert_eq!(parse(name), expected, "{name}");
        }
        let clip = "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.lora_A.weight";
        assert_eq!(parse(clip), None);
        assert_eq!(parse("base_model.model.model.layers.3.mlp.q_proj.lora_A.weight"), None);
        assert_eq!(parse("base_model.model.model.layers.3.mlp.up_proj.lora_A.bias"), None);
    }

    #[test]
    fn every_written_name_is_read_again() {
        for names in AdapterNames::ALL {
            let name = names.tensor("layers.3.mlp.up_proj.lora_A.weight");
            assert_eq!(parse(&name), Some((3, LoraTarget::UpProj, Half::A)), "{name}");
        }
    }
}
