//! Structural defaulting, as in apiextensions-apiserver.

use serde_json::{Map, Value};

/// Removes nulls, as the schemas allow none; a default may then take their place.
pub(super) fn prune_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, child| !child.is_null());
            for (name, child) in map.iter_mut() {
                if let Some(schema) = child_schema(schema, name) {
                    prune_nulls(schema, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| prune_nulls(schema, item));
            }
        }
        _ => {}
    }
}

/// Fills in defaults, including those inside an object that is itself a default.
pub(super) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let empty = Map::new();
            for (name, child) in schema.get("properties").and_then(Value::as_object).unwrap_or(&empty) {
                if let Some(default) = child.get("default") {
                    map.entry(name).or_insert_with(|| default.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(schema) = child_schema(schema, name) {
                    fill(schema, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(schema, item));
            }
        }
        _ => {}
    }
}

fn child_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema
        .get("properties")
        .and_then(|properties| properties.get(name))
        .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}
