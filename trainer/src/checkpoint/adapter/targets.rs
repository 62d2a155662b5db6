//! Which modules an adapter's config selects, as PEFT's `check_target_module_exists` decides it.

use fancy_regex::Regex;
use serde::Deserialize;

/// `target_modules` or `exclude_modules`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Names {
    Pattern(String),
    List(Vec<String>),
}

/// `layers_to_transform` or `layers_pattern`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// The fields of the config that select modules.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct TargetModules {
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    layers_to_transform: Option<OneOrMore<usize>>,
    layers_pattern: Option<OneOrMore<String>>,
}

/// The field that holds a pattern which cannot be used, and why.
pub(super) type BadPattern = (&'static str, String);

impl TargetModules {
    /// Whether the module `name` gets an adapter; `None` where the config names no modules.
    pub(super) fn select(&self, name: &str) -> Result<Option<bool>, BadPattern> {
        let Some(targets) = &self.target_modules else { return Ok(None) };
        if let Some(excluded) = &self.exclude_modules
            && matches("exclude_modules", excluded, name)?
        {
            return Ok(Some(false));
        }
        if !matches("target_modules", targets, name)? {
            return Ok(Some(false));
        }
        // PEFT applies layers_to_transform to a list only, and not to a module that the list names in full.
        let Names::List(list) = targets else { return Ok(Some(true)) };
        let layers = self.layers_to_transform.as_ref().map_or(&[][..], OneOrMore::as_slice);
        if layers.is_empty() || list.iter().any(|target| target == name) {
            return Ok(Some(true));
        }
        Ok(Some(self.layer_of(name)?.is_some_and(|layer| layers.contains(&layer))))
    }

    /// The number of the layer that the module is in.
    fn layer_of(&self, name: &str) -> Result<Option<usize>, BadPattern> {
        let patterns = self.layers_pattern.as_ref().map_or(&[][..], OneOrMore::as_slice);
        let patterns = match patterns {
            [] => vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()],
            named => named.iter().map(|pattern| format!(r"^(?:|.*?\.){pattern}\.(\d+)\.")).collect(),
        };
        for pattern in patterns {
            let regex = compile("layers_pattern", &pattern)?;
            if let Ok(Some(found)) = regex.captures(name) {
                return Ok(found.iter().flatten().last().and_then(|number| number.as_str().parse().ok()));
            }
        }
        Ok(None)
    }
}

fn matches(field: &'static str, names: &Names, module: &str) -> Result<bool, BadPattern> {
    match names {
        // PEFT replaces this word by a list before it saves a config.
        Names::Pattern(all) if all == "all-linear" => Ok(true),
        Names::Pattern(pattern) => compile(field, &format!(r"\A(?:{pattern})\z"))?
            .is_match(module)
            .map_err(|error| (field, error.to_string())),
        Names::List(list) => Ok(list.iter().any(|name| {
            module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })),
    }
}

fn compile(field: &'static str, pattern: &str) -> Result<Regex, BadPattern> {
    Regex::new(pattern).map_err(|error| (field, error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LANGUAGE: &str = "model.language_model.layers.3.self_attn.q_proj";
    const VISION: &str = "model.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj";

    fn select(config: Value, name: &str) -> bool {
        let targets: TargetModules = serde_json::from_value(config).expect("valid");
        targets.select(name).expect("usable patterns").expect("names modules")
    }

    /// Expected values are those of PEFT 0.21.2's `check_target_module_exists`.
    #[test]
    fn modules_are_selected_as_in_peft() {
        for (config, language, vision) in [
            (json!({"target_modules": ["q_proj"]}), true, true),
            (json!({"target_modules": ["proj"]}), false, false),
            (json!({"target_modules": [LANGUAGE]}), true, false),
            (json!({"target_modules": r".*language_model\.layers\.\d+\.self_attn\.q_proj"}), true, false),
            (json!({"target_modules": r"(?!.*vision_tower).*q_proj"}), true, false),
            (json!({"target_modules": "q_proj"}), false, false),
            (json!({"target_modules": "all-linear"}), true, true),
            (json!({"target_modules": ["q_proj"], "exclude_modules": r".*vision_tower.*"}), true, false),
            (json!({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}), false, false),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": [3]}), true, true),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": 2}), false, false),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "layers"}),
                true,
                true,
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": ["h"]}),
                false,
                false,
            ),
        ] {
            assert_eq!(select(config.clone(), LANGUAGE), language, "{config}");
            assert_eq!(select(config.clone(), VISION), vision, "{config}");
        }
        let none: TargetModules = serde_json::from_value(json!({})).expect("valid");
        assert_eq!(none.select(LANGUAGE), Ok(None));
        let broken: TargetModules = serde_json::from_value(json!({"target_modules": "("})).expect("valid");
        assert_eq!(broken.select(LANGUAGE).expect_err("no pattern").0, "target_modules");
    }
}
