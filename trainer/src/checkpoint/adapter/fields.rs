//! The fields of `adapter_config.json`: all of PEFT 0.21's `LoraConfig`, and what each means for an adapter that is
//! applied as plain LoRA.

use serde_json::{Map, Value};

/// What a field means.
enum Meaning {
    /// Read and honoured.
    Honoured,
    /// Changes nothing in how the tensors are applied: provenance, initialisation or training only.
    WithoutEffect,
    /// Only PEFT's default is supported. The text says why, and what to do.
    DefaultOnly(&'static str),
}

use Meaning::{DefaultOnly, Honoured, WithoutEffect};

const MERGE: &str = "merge the adapter into the base model with PEFT where its method allows that, or use a plain LoRA adapter";

/// PEFT 0.21.2, `tuners/lora/config.py`, and fields that earlier versions wrote.
const FIELDS: &[(&str, Meaning)] = &[
    ("r", Honoured),
    ("lora_alpha", Honoured),
    ("lora_dropout", Honoured),
    ("use_rslora", Honoured),
    ("target_modules", Honoured),
    ("exclude_modules", Honoured),
    ("layers_to_transform", Honoured),
    ("layers_pattern", Honoured),
    ("init_lora_weights", Honoured),
    ("peft_type", Honoured),
    ("bias", Honoured),
    ("auto_mapping", WithoutEffect),
    ("base_model_name_or_path", WithoutEffect),
    ("inference_mode", WithoutEffect),
    ("peft_version", WithoutEffect),
    ("revision", WithoutEffect),
    ("task_type", WithoutEffect),
    ("runtime_config", WithoutEffect),
    // PEFT ignores each of these unless init_lora_weights names its method.
    ("corda_config", WithoutEffect),
    ("eva_config", WithoutEffect),
    ("loftq_config", WithoutEffect),
    ("lora_ga_config", WithoutEffect),
    ("megatron_core", WithoutEffect),
    ("qalora_group_size", WithoutEffect),
    // Only says how modules_to_save and trainable_token_indices are saved.
    ("ensure_weight_tying", WithoutEffect),
    ("alora_invocation_tokens", DefaultOnly("aLoRA applies the adapter only after its invocation tokens")),
    ("alpha_pattern", DefaultOnly("only one alpha for all projections is supported")),
    ("arrow_config", DefaultOnly("Arrow routes each token to another adapter")),
    ("enable_lora", DefaultOnly("LoRA over a part of a projection is not supported")),
    ("fan_in_fan_out", DefaultOnly("must be false for a LLaVA model")),
    ("kasa_config", DefaultOnly("KaSA truncates the base weights")),
    ("layer_replication", DefaultOnly("repeated layers make another model")),
    ("lora_bias", DefaultOnly("a bias of lora_B is not supported")),
    ("megatron_config", DefaultOnly("Megatron's parallel layers are not supported")),
    ("merge_weights", DefaultOnly("a merged adapter is not plain LoRA")),
    ("modules_to_save", DefaultOnly("fully trained modules are not supported")),
    ("monteclora_config", DefaultOnly("MonteCLoRA samples its weights")),
    ("rank_pattern", DefaultOnly("only one rank for all projections is supported")),
    ("target_parameters", DefaultOnly("LoRA on parameters outside of linear layers is not supported")),
    ("trainable_token_indices", DefaultOnly("trained token embeddings are not supported")),
    ("use_bdlora", DefaultOnly("BD-LoRA is not plain LoRA")),
    ("use_dora", DefaultOnly("DoRA is not plain LoRA")),
    ("use_qalora", DefaultOnly("QA-LoRA pools its input")),
    ("velora_config", DefaultOnly("VeLoRA is not plain LoRA")),
];

/// The first field that makes this more than plain LoRA, and why.
pub(super) fn unsupported(config: &Map<String, Value>) -> Option<(&str, String)> {
    config.iter().find_map(|(name, value)| {
        let meaning = FIELDS.iter().find(|(field, _)| field == name).map(|(_, meaning)| meaning);
        let reason = match meaning {
            Some(WithoutEffect) => return None,
            Some(Honoured) => value_of(name, value)?,
            _ if is_default(value) => return None,
            Some(DefaultOnly(reason)) => format!("{reason}; {MERGE}"),
            None => format!("is unknown to this version, which knows the fields of PEFT 0.21; {MERGE}"),
        };
        Some((name.as_str(), reason))
    })
}

/// Why the value of a field that is honoured in part is refused.
fn value_of(name: &str, value: &Value) -> Option<String> {
    let text = value.as_str();
    match name {
        "peft_type" if !value.is_null() && text != Some("LORA") => {
            Some("only LORA adapters are supported; use one".into())
        }
        "bias" if !value.is_null() && text != Some("none") => {
            Some(format!("trained biases are not supported; {MERGE}"))
        }
        "r" if value.as_u64() == Some(0) => {
            Some("must be at least 1; save the adapter again with PEFT".into())
        }
        // The base stays as it is, and the trained A and B say everything.
        "init_lora_weights" => match text {
            None | Some("gaussian" | "orthogonal" | "eva" | "mica") => None,
            Some(method) => Some(format!(
                "{method:?} changed the base weights, which this adapter does not hold; save the adapter again with path_initial_model_for_weight_conversion (PiSSA, OLoRA, CorDA), or {MERGE}"
            )),
        },
        _ => None,
    }
}

/// Whether it is what PEFT writes for a feature that is off.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(name: &str, value: Value) -> bool {
        let config = Map::from_iter([("r".to_owned(), json!(4)), (name.to_owned(), value)]);
        unsupported(&config).is_some_and(|(field, _)| field == name)
    }

    #[test]
    fn every_method_that_changes_the_base_weights_is_refused() {
        for method in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "a later one"] {
            assert!(refused("init_lora_weights", json!(method)), "{method}");
        }
        for harmless in [json!(true), json!(false), json!("gaussian"), json!("eva"), Value::Null] {
            assert!(!refused("init_lora_weights", harmless.clone()), "{harmless}");
        }
    }

    #[test]
    fn a_field_that_is_off_is_accepted_and_one_that_is_on_is_refused_by_name() {
        for (field, on) in [
            ("alora_invocation_tokens", json!([300, 301])),
            ("alpha_pattern", json!({"q_proj": 8})),
            ("arrow_config", json!({"top_k": 2})),
            ("fan_in_fan_out", json!(true)),
            ("kasa_config", json!({"beta": 1e-4})),
            ("layer_replication", json!([[0, 2], [1, 3]])),
            ("lora_bias", json!(true)),
            ("modules_to_save", json!(["mm_projector"])),
            ("monteclora_config", json!({"n": 1})),
            ("rank_pattern", json!({"q_proj": 8})),
            ("target_parameters", json!(["experts"])),
            ("trainable_token_indices", json!([5])),
            ("use_bdlora", json!({"nblocks": 2})),
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("velora_config", json!({"num_groups": 2})),
            ("a_field_of_a_later_version", json!(3)),
        ] {
            assert!(refused(field, on), "{field}");
            for off in [Value::Null, json!(false), json!({}), json!([])] {
                assert!(!refused(field, off.clone()), "{field}: {off}");
            }
        }
        assert!(refused("bias", json!("lora_only")) && !refused("bias", json!("none")));
        assert!(!refused("megatron_core", json!("megatron.core")));
        assert!(!refused("qalora_group_size", json!(16)));
        assert!(!refused("loftq_config", json!({"loftq_bits": 4})));
    }
}
