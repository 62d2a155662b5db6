//! The CustomResourceDefinitions: kube's derived ones, made structural, with validation rules generated from their shape.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};
use stic_contract::RunKind;

use crate::cel::{rule, rule_at};
use crate::evaluation::EvaluationRun;
use crate::stage_one::StageOneRun;
use crate::stage_two::StageTwoRun;

/// The fields of a spec that can be changed, because they do not affect the result.
pub const MUTABLE: [&str; 14] = [
    "pod",
    "backoff",
    "activeDeadlineSeconds",
    "suspend",
    "retention",
    "rerun",
    "retry",
    "training.saveSteps",
    "training.activationCheckpointing",
    "preferences.batchSize",
    "description.batchSize",
    "batchSize",
    "judge.maxRequests",
    "judge.maxRequestsPerMinute",
];

/// The sections of `spec.pod` that override the settings of all steps.
const SECTIONS: [&str; 5] = ["prepare", "generation", "training", "answer", "judge"];

/// The pattern of a Kubernetes quantity.
pub(crate) const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// The definition of every kind with the name of its file, in the order of installation.
///
/// # Errors
/// If the schema of a type is not a JSON object, which the tests exclude.
pub fn all() -> Result<Vec<(String, CustomResourceDefinition)>, serde_json::Error> {
    RunKind::ALL
        .into_iter()
        .map(|kind| {
            let crd = definition(kind)?;
            Ok((format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), crd))
        })
        .collect()
}

fn definition(kind: RunKind) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(match kind {
        RunKind::StageOneRun => StageOneRun::crd(),
        RunKind::StageTwoRun => StageTwoRun::crd(),
        RunKind::EvaluationRun => EvaluationRun::crd(),
    })?;
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        finish(&mut version["schema"]["openAPIV3Schema"]);
    }
    serde_json::from_value(crd)
}

/// The structural schema of `kind`, as the API server stores it.
///
/// # Errors
/// As [`all`].
pub fn of(kind: RunKind) -> Result<Value, serde_json::Error> {
    let version = definition(kind)?.spec.versions.into_iter().next();
    serde_json::to_value(
        version.and_then(|version| version.schema).and_then(|schema| schema.open_api_v3_schema),
    )
}

fn finish(root: &mut Value) {
    make_structural(root);
    // The API server adds these to every object; clients that validate against the definition alone need them here.
    root["properties"]["apiVersion"] =
        json!({"type": "string", "description": "The API version of this object: stic.dev/v1alpha1."});
    root["properties"]["kind"] = json!({"type": "string", "description": "The kind of this object."});
    // A rule can only refer to fields that the schema lists.
    root["properties"]["metadata"] = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    add_rules(
        root,
        vec![rule_at(
            ".metadata.name",
            "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "must have at most 40 characters, which are lower-case letters, digits and dashes, because Jobs are named after the run: choose another name",
        )],
    );
    let spec = &mut root["properties"]["spec"];
    let sections = spec["properties"]["pod"]["properties"].as_object_mut().into_iter().flatten();
    // Each kind has the sections of its own steps.
    let of_steps = sections.filter(|(name, _)| SECTIONS.contains(&name.as_str()));
    for settings in of_steps.filter_map(|(_, section)| section["properties"].as_object_mut()) {
        settings.values_mut().for_each(remove_inner_descriptions);
    }
    // With their descriptions, these types would take more room than everything else, and kubectl apply stores a copy of
    // the definition in an annotation of at most 256 KiB.
    for field in ["affinity", "topologySpreadConstraints", "volumes"] {
        remove_inner_descriptions(&mut spec["properties"]["pod"]["properties"][field]);
    }
    make_immutable(spec, "spec", &MUTABLE);
    describe_defaults(spec);
    // With this default, a client that waits for observedGeneration to catch up also waits for the first status.
    root["properties"]["status"]["default"] = json!({"observedGeneration": -1});
}

// Schemars generates more than the API server accepts: it marks options as nullable, although here `None` means absent,
// and it uses formats that Kubernetes warns about.
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
    // The API server fills a default of `{}` from the defaults inside, so each of those is written once. An object with
    // rules keeps its whole default, because the API server evaluates the rules on the default as written.
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

// Kubernetes' own types are described once, under `pod`; three more copies would be half of the definition.
fn remove_inner_descriptions(node: &mut Value) {
    let Value::Object(schema) = node else { return };
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(child)) = schema.get_mut(key) {
            child.remove("description");
        }
        if let Some(child) = schema.get_mut(key) {
            remove_inner_descriptions(child);
        }
    }
    if let Some(Value::Object(children)) = schema.get_mut("properties") {
        for child in children.values_mut() {
            if let Value::Object(child) = child {
                child.remove("description");
            }
            remove_inner_descriptions(child);
        }
    }
}

/// Adds a rule to every field below `node`, except those in `mutable`, that its value cannot change. The rule is on the
/// innermost field, so that the API server's error names the field that was changed.
fn make_immutable(node: &mut Value, path: &str, mutable: &[&str]) {
    let mut own = Vec::new();
    let required: Vec<String> =
        node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
    let Some(Value::Object(properties)) = node.get_mut("properties") else { return };
    for (name, child) in properties.iter_mut().filter(|(name, _)| !mutable.contains(&name.as_str())) {
        let below = format!("{name}.");
        let mutable: Vec<&str> = mutable.iter().filter_map(|path| path.strip_prefix(&below)).collect();
        let path = format!("{path}.{name}");
        let message = format!(
            "{path} is immutable, because it determines the result: create a run with a new name instead"
        );
        if child.get("default").is_none() && !required.contains(name) {
            own.push(rule_at(
                &format!(".{name}"),
                &format!("has(self.{name}) == has(oldSelf.{name})"),
                &message,
            ));
        }
        if child.get("properties").is_some() {
            make_immutable(child, &path, &mutable);
        } else {
            add_rules(child, vec![rule("self == oldSelf", &message)]);
        }
    }
    add_rules(node, own);
}

/// Appends the default of every field with a scalar default to its description, because `kubectl explain` does not show
/// defaults.
fn describe_defaults(node: &mut Value) {
    let Some(Value::Object(properties)) = node.get_mut("properties") else { return };
    for child in properties.values_mut() {
        describe_defaults(child);
        let default = match &child["default"] {
            Value::String(text) if text.is_empty() || text.len() > 32 => continue,
            Value::String(text) => text.clone(),
            scalar @ (Value::Number(_) | Value::Bool(_)) => scalar.to_string(),
            _ => continue,
        };
        if let Some(Value::String(description)) = child.get_mut("description") {
            description.push_str(&format!(" Defaults to {default}."));
        }
    }
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

/// The definition as it is written to YAML: without the empty status that Kubernetes' types include.
///
/// # Errors
/// As [`all`].
pub fn manifest(crd: &CustomResourceDefinition) -> Result<Map<String, Value>, serde_json::Error> {
    let mut value = serde_json::from_value::<Map<String, Value>>(serde_json::to_value(crd)?)?;
    value.remove("status");
    Ok(value)
}
