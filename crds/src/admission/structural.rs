//! Structural validation, with the API server's messages.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;

use super::invalid::Invalid;
use super::path::{from_pointer, join};
use crate::decimal;
use crate::schema::QUANTITY;

/// Checks the metadata that every object must have.
pub(super) fn check_metadata(object: &Value) -> Vec<Invalid> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    match metadata.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {}
        Some(Value::String(_)) | None => errors.push(Invalid {
            field: "metadata.name".into(),
            message: "Required value: give the run a name".into(),
        }),
        Some(other) => errors.push(wrong_type("metadata.name", other, "string")),
    }
    for map in ["labels", "annotations"] {
        for (key, value) in metadata.get(map).and_then(Value::as_object).into_iter().flatten() {
            if !value.is_string() {
                errors.push(wrong_type(&format!("metadata.{map}[{key}]"), value, "string"));
            }
        }
    }
    errors
}

/// Checks `object` against the schema.
pub(super) fn check(validator: &jsonschema::Validator, schema: &Value, object: &Value) -> Vec<Invalid> {
    let mut errors: Vec<Invalid> =
        validator.iter_errors(object).map(|error| translate(&error, schema)).collect();
    find_duplicates(schema, object, "", &mut errors);
    errors
}

fn translate(error: &jsonschema::ValidationError<'_>, schema: &Value) -> Invalid {
    let pointer = error.instance_path().as_str();
    let field = from_pointer(pointer);
    let instance: &Value = error.instance();
    let value = display_value(Some(instance));
    let bounded = |what: &str, limit: &Value| {
        let limit = limit.as_f64().unwrap_or_default();
        format!("Invalid value: {value}: {field} in body should be {what} {limit}")
    };
    let message = match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            return Invalid { field: join(&field, name), message: "Required value".into() };
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(_) => "another type".into(),
            };
            let mut error = wrong_type(&field, instance, &expected);
            if is_decimal(schema, pointer) && instance.is_number() {
                error.message.push_str(&format!(": put it in quotes: \"{instance}\""));
            }
            return error;
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<String> =
                options.as_array().into_iter().flatten().map(ToString::to_string).collect();
            format!("Unsupported value: {value}: supported values: {}", options.join(", "))
        }
        ValidationErrorKind::Pattern { pattern } => {
            let mut text = format!("Invalid value: {value}: {field} in body should match '{pattern}'");
            match pattern.as_str() {
                decimal::PATTERN => text.push_str(": write a decimal number such as \"0.1\" or \"1e-7\""),
                QUANTITY => text.push_str(": write a quantity such as 500m or 16Gi, without a space"),
                _ => {}
            }
            text
        }
        ValidationErrorKind::Minimum { limit } => bounded("greater than or equal to", limit),
        ValidationErrorKind::Maximum { limit } => bounded("less than or equal to", limit),
        ValidationErrorKind::MinLength { limit } => {
            format!("Invalid value: {value}: {field} in body should be at least {limit} chars long")
        }
        ValidationErrorKind::MaxLength { limit } => format!("Too long: may not be more than {limit} bytes"),
        ValidationErrorKind::MinItems { limit } => {
            format!("Invalid value: {}: {field} in body should have at least {limit} items", count(instance))
        }
        ValidationErrorKind::MaxItems { limit } => {
            format!("Too many: {}: must have at most {limit} items", count(instance))
        }
        _ => format!("Invalid value: {value}: {error}"),
    };
    Invalid { field, message }
}

fn wrong_type(field: &str, value: &Value, expected: &str) -> Invalid {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let message =
        format!("Invalid value: \"{found}\": {field} in body must be of type {expected}: \"{found}\"");
    Invalid { field: field.into(), message }
}

/// Doubled items of lists that are sets, and doubled keys of lists that are maps.
fn find_duplicates(schema: &Value, value: &Value, path: &str, errors: &mut Vec<Invalid>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(schema) = schema.get("properties").and_then(|properties| properties.get(name)) {
                    find_duplicates(schema, child, &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let keys: Vec<&str> = schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
            let identity = |item: &Value| match list_type {
                Some("set") => Some(item.clone()),
                Some("map") => {
                    Some(keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect())
                }
                _ => None,
            };
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                if let Some(own) = identity(item)
                    && items[..i].iter().any(|earlier| identity(earlier).as_ref() == Some(&own))
                {
                    let message = format!("Duplicate value: {own}: remove one of the two");
                    errors.push(Invalid { field: path.clone(), message });
                }
                if let Some(schema) = schema.get("items") {
                    find_duplicates(schema, item, &path, errors);
                }
            }
        }
        _ => {}
    }
}

fn is_decimal(schema: &Value, pointer: &str) -> bool {
    let mut node = schema;
    for part in pointer.split('/').skip(1) {
        let next = if part.parse::<usize>().is_ok() { node.get("items") } else { None };
        let Some(next) = next.or_else(|| node.get("properties").and_then(|p| p.get(part))) else {
            return false;
        };
        node = next;
    }
    node.get("pattern").and_then(Value::as_str) == Some(decimal::PATTERN)
}

/// A value as the API server displays it in a message: objects and lists by their type only.
pub(super) fn display_value(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "null".into(),
        Some(Value::Array(_)) => "\"array\"".into(),
        Some(Value::Object(_)) => "\"object\"".into(),
        Some(Value::String(text)) if text.chars().count() > 100 => {
            format!("\"{}…\"", text.chars().take(100).collect::<String>())
        }
        Some(scalar) => scalar.to_string(),
    }
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}
