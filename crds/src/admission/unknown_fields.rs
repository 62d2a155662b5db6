//! Strict decoding: fields that the schema does not know.

use serde_json::Value;

use super::invalid::Invalid;
use super::path::join;
use super::spelling::closest;

/// The fields of `ObjectMeta`. The schema of a definition lists only those that it restricts.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Every field of `object` that strict decoding refuses.
pub(super) fn find(schema: &Value, object: &Value) -> Vec<Invalid> {
    let mut found = Vec::new();
    walk(schema, object, "", &mut found);
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        for name in metadata.keys().filter(|name| !METADATA.contains(&name.as_str())) {
            found.push(unknown(&format!("metadata.{name}"), METADATA.iter().copied(), name));
        }
    }
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<Invalid>) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
            for (name, child) in map {
                // The schema lists only the metadata that a rule refers to; METADATA has all fields.
                if path.is_empty() && name == "metadata" {
                    continue;
                }
                let path = join(path, name);
                match properties.and_then(|properties| properties.get(name)).or(additional) {
                    Some(schema) => walk(schema, child, &path, found),
                    None if properties.is_some() => {
                        let known = properties.into_iter().flatten().map(|(name, _)| name.as_str());
                        found.push(unknown(&path, known, name));
                    }
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{i}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn unknown<'a>(path: &str, known: impl Iterator<Item = &'a str>, name: &str) -> Invalid {
    let hint = closest(known, name).map_or_else(
        || "remove it; kubectl explain lists the fields".to_owned(),
        |known| format!("did you mean {known}?"),
    );
    Invalid { field: path.into(), message: format!("unknown field {path:?}: {hint}") }
}
