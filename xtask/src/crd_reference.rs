//! The fields of the custom resources, from their schemas.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use stic_contract::RunKind;
use stic_crds::schema;

use crate::markdown::{self, code};

/// A default longer than this is only counted.
const DEFAULT_CHARS: usize = 60;

pub(crate) fn pages() -> Result<Vec<(PathBuf, String)>> {
    RunKind::ALL.into_iter().map(page).collect()
}

fn page(kind: RunKind) -> Result<(PathBuf, String)> {
    let schema = schema::of(kind)?;
    let part = |name: &str| {
        let mut rows = Vec::new();
        fields(&schema["properties"][name], "", &mut rows);
        rows
    };
    let spec = part("spec").into_iter().map(|field| {
        let mutable = if is_mutable(&field.path) { "yes" } else { "" };
        [code(&field.path), field.kind, code(&field.default), mutable.to_owned(), field.description]
    });
    let spec = markdown::table(["field", "type", "default", "mutable", "meaning"], spec);
    let status = part("status").into_iter().map(|field| [code(&field.path), field.kind, field.description]);
    let status = markdown::table(["field", "type", "meaning"], status);
    let text = format!(
        "{}# {kind}\n\n`apiVersion: {}/{}`, `kind: {kind}`. `kubectl explain {}` shows the same with everything inside Kubernetes' own types.\n\n\
         Only fields marked in the column *mutable* can change after the run is created.\n\n\
         ## spec\n\n{spec}\n## status\n\n{status}",
        markdown::DO_NOT_EDIT,
        stic_crds::GROUP,
        stic_crds::VERSION,
        kind.as_str().to_lowercase(),
    );
    Ok((format!("docs/reference/{}.md", kind.as_str().to_lowercase()).into(), text))
}

struct Field {
    path: String,
    kind: String,
    default: String,
    description: String,
}

fn fields(schema: &Value, path: &str, found: &mut Vec<Field>) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let element = Some(&child["items"]).filter(|items| items.is_object());
        // `<image>` would be read as HTML.
        let mut description = child["description"].as_str().unwrap_or_default().replace('<', "\\<");
        let choices = child["enum"].as_array().or_else(|| element.and_then(|items| items["enum"].as_array()));
        if let Some(choices) = choices {
            let choices: Vec<String> = choices.iter().filter_map(Value::as_str).map(code).collect();
            description = format!("{description} One of {}.", choices.join(", "));
        }
        if required.contains(&name.as_str()) {
            description = format!("**Required.** {description}");
        }
        let path = if element.is_some() { format!("{path}[]") } else { path };
        let descend = !is_foreign(&path);
        found.push(Field {
            kind: kind(child),
            default: default(&child["default"]),
            description,
            path: path.clone(),
        });
        if descend {
            fields(element.unwrap_or(child), &path, found);
        }
    }
}

fn is_mutable(path: &str) -> bool {
    schema::MUTABLE.iter().any(|mutable| {
        path.strip_prefix(mutable).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Whether the fields inside `path` are left out: Kubernetes documents its own types, and the pod settings of single
/// steps repeat those of all steps.
fn is_foreign(path: &str) -> bool {
    path == "conditions[]" || (path.starts_with("pod.") && path != "pod.securityContext")
}

fn kind(schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "quantity".into();
    }
    let named = |schema: &Value| schema["type"].as_str().unwrap_or("any").to_owned();
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", named(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map of {}", named(&schema["additionalProperties"]))
        }
        _ => named(schema),
    }
}

/// The default as JSON, with line breaks as `\n`. Of objects only the defaults of their fields are shown.
fn default(value: &Value) -> String {
    let text = match value {
        Value::Null | Value::Object(_) => return String::new(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.replace('\n', "\\n"),
        other => other.to_string(),
    };
    match value {
        Value::Array(items) if text.chars().count() > DEFAULT_CHARS => format!("{} entries", items.len()),
        _ if text.chars().count() > DEFAULT_CHARS => {
            format!("{}…", text.chars().take(DEFAULT_CHARS).collect::<String>())
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_listed_with_type_default_and_choices() {
        let schema = json!({"required": ["a"], "properties": {
            "a": {"type": "string", "default": "x\ny", "enum": ["x", "y"], "description": "What."},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "integer"}}}},
            "pod": {"properties": {"d": {"type": "object", "properties": {"e": {"type": "string"}}}}}}});
        let mut found = Vec::new();
        fields(&schema, "", &mut found);
        let paths: Vec<&str> = found.iter().map(|field| field.path.as_str()).collect();
        assert_eq!(paths, ["a", "b[]", "b[].c", "pod", "pod.d"]);
        assert_eq!(found[0].description, "**Required.** What. One of `x`, `y`.");
        assert_eq!((found[0].default.as_str(), found[1].kind.as_str()), ("x\\ny", "list of object"));
    }

    #[test]
    fn a_field_is_mutable_if_it_or_what_it_is_in_is() {
        let mutable = ["retry", "pod.labels", "backoff.limit", "training.saveSteps"];
        assert!(mutable.into_iter().all(is_mutable));
        assert!(!["training", "training.saveStepsLater", "seed"].into_iter().any(is_mutable));
    }
}
