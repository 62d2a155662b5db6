//! The CustomResourceDefinitions: what kube derives, made structural and given the rules that follow from its shape.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

use crate::cel::{rule, rule_at};
use crate::{StageOneRun, StageTwoRun};

/// The fields of a spec that may change, because none of them decides a result.
pub const MUTABLE: [&str; 6] = ["pod", "backoff", "activeDeadlineSeconds", "suspend", "retention", "rerun"];

const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// The file name and the definition of every kind, in the order they are installed.
///
/// # Errors
/// A type whose schema is no JSON object, which the tests exclude.
pub fn all() -> Result<Vec<(String, CustomResourceDefinition)>, serde_json::Error> {
    [StageOneRun::crd(), StageTwoRun::crd()]
        .into_iter()
        .map(|crd| {
            let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            let mut value = serde_json::to_value(crd)?;
            for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
                finish(&mut version["schema"]["openAPIV3Schema"]);
            }
            Ok((file, serde_json::from_value(value)?))
        })
        .collect()
}

/// The structural schema of `kind`, as the API server holds it.
///
/// # Errors
/// As [`all`].
pub fn of(kind: &str) -> Result<Option<Value>, serde_json::Error> {
    for (_, crd) in all()? {
        if crd.spec.names.kind == kind {
            let schema = crd.spec.versions.into_iter().next().and_then(|version| version.schema);
            return schema.and_then(|schema| schema.open_api_v3_schema).map(serde_json::to_value).transpose();
        }
    }
    Ok(None)
}

fn finish(root: &mut Value) {
    make_structural(root);
    // The API server knows these of every object; clients that check against the definition alone do not.
    root["properties"]["apiVersion"] = json!({"type": "string", "description": "stic.dev/v1alpha1."});
    root["properties"]["kind"] = json!({"type": "string", "description": "The kind of this object."});
    // A rule can only point at a field that the schema lists.
    root["properties"]["metadata"] = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    add_rules(
        root,
        vec![rule_at(
            ".metadata.name",
            "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "a run's name is at most 40 lower-case letters, digits and dashes, because its Jobs are named after it: choose another name",
        )],
    );
    let spec = &mut root["properties"]["spec"];
    for step in ["prepare", "generation", "training"] {
        let settings = spec["properties"]["pod"]["properties"][step]["properties"].as_object_mut();
        settings.into_iter().flat_map(Map::values_mut).for_each(forget_inner_descriptions);
    }
    freeze(spec, "spec", &MUTABLE);
    // So that a client that waits for observedGeneration to catch up waits also before the first status is written.
    root["properties"]["status"]["default"] = json!({"observedGeneration": -1});
}

// Schemars speaks a wider language than the API server: it marks options as nullable, though absent is what we mean
// by none, and it has formats that Kubernetes warns about.
fn make_structural(node: &mut Value) {
    let Value::Object(schema) = node else { return };
    schema.remove("nullable");
    match schema.get("format").and_then(Value::as_str) {
        Some("uint" | "uint32" | "uint64") => {
            schema.insert("format".into(), "int64".into());
        }
        Some("uint8" | "uint16") => {
            schema.insert("format".into(), "int32".into());
        }
        _ => {}
    }
    if let Some(Value::Array(choices)) = schema.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        schema.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        schema.insert("pattern".into(), QUANTITY.into());
        schema.insert("description".into(), "A quantity, such as 500m or 16Gi.".into());
    }
    // The API server fills a default of `{}` from the defaults inside, so that those stand in one place. Where a rule
    // looks at the object as a whole it does not: it asks the rule about the default as it is written.
    if schema.get("default").is_some_and(Value::is_object) && !schema.contains_key("x-kubernetes-validations")
    {
        schema.insert("default".into(), json!({}));
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Object(children)) = schema.get_mut("properties") {
        children.values_mut().for_each(make_structural);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(key) {
            make_structural(child);
        }
    }
}

// Kubernetes' own types are explained once, under `pod`; three more copies would be half of the definition.
fn forget_inner_descriptions(node: &mut Value) {
    let Value::Object(schema) = node else { return };
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(child)) = schema.get_mut(key) {
            child.remove("description");
        }
        if let Some(child) = schema.get_mut(key) {
            forget_inner_descriptions(child);
        }
    }
    if let Some(Value::Object(children)) = schema.get_mut("properties") {
        for child in children.values_mut() {
            if let Value::Object(child) = child {
                child.remove("description");
            }
            forget_inner_descriptions(child);
        }
    }
}

/// Gives every field below `node`, but for `mutable`, a rule that it stays as it is. The rule stands on the innermost
/// field, so that the API server's answer names what was changed.
fn freeze(node: &mut Value, path: &str, mutable: &[&str]) {
    let mut own = Vec::new();
    let required: Vec<String> =
        node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
    let Some(Value::Object(properties)) = node.get_mut("properties") else { return };
    for (name, child) in properties.iter_mut().filter(|(name, _)| !mutable.contains(&name.as_str())) {
        let path = format!("{path}.{name}");
        let message =
            format!("{path} cannot change, because it decides the result: create a run with a new name");
        if child.get("default").is_none() && !required.contains(name) {
            own.push(rule_at(
                &format!(".{name}"),
                &format!("has(self.{name}) == has(oldSelf.{name})"),
                &message,
            ));
        }
        if child.get("properties").is_some() {
            freeze(child, &path, &[]);
        } else {
            add_rules(child, vec![rule("self == oldSelf", &message)]);
        }
    }
    add_rules(node, own);
}

fn add_rules(node: &mut Value, rules: Vec<Value>) {
    let Value::Object(schema) = node else { return };
    if rules.is_empty() {
        return;
    }
    let entry = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(existing) = entry {
        existing.extend(rules);
    }
}

/// The definition as a YAML-ready value, without the empty status that Kubernetes' types insist on.
///
/// # Errors
/// As [`all`].
pub fn manifest(crd: &CustomResourceDefinition) -> Result<Map<String, Value>, serde_json::Error> {
    let mut value = serde_json::from_value::<Map<String, Value>>(serde_json::to_value(crd)?)?;
    value.remove("status");
    Ok(value)
}
