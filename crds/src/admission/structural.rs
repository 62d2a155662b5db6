//! Strict decoding and structural validation, in the API server's words.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;

use super::Invalid;
use crate::decimal;

/// The fields of `ObjectMeta`. A definition's schema lists only those that it restricts.
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

/// Fields that strict decoding refuses.
pub(super) fn unknown_fields(schema: &Value, object: &Value) -> Vec<Invalid> {
    let mut found = Vec::new();
    walk_unknown(schema, object, "", &mut found);
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        for name in metadata.keys().filter(|name| !METADATA.contains(&name.as_str())) {
            found.push(unknown(&format!("metadata.{name}"), METADATA.iter().copied(), name));
        }
    }
    found
}

fn walk_unknown(schema: &Value, value: &Value, path: &str, found: &mut Vec<Invalid>) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
            for (name, child) in map {
                // The schema lists only what a rule points at; the rest is in METADATA.
                if path.is_empty() && name == "metadata" {
                    continue;
                }
                let path = join(path, name);
                match properties.and_then(|properties| properties.get(name)).or(additional) {
                    Some(schema) => walk_unknown(schema, child, &path, found),
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
                    walk_unknown(schema, item, &format!("{path}[{i}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn unknown<'a>(path: &str, known: impl Iterator<Item = &'a str>, name: &str) -> Invalid {
    let hint = closest(known, name).map_or_else(
        || "remove it, or look it up with kubectl explain".to_owned(),
        |known| format!("did you mean {known}?"),
    );
    Invalid { field: path.into(), message: format!("unknown field {path:?}: {hint}") }
}

/// The known name that differs in at most two letters, or in case only.
fn closest<'a>(known: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    known
        .map(|known| (distance(&known.to_lowercase(), &name.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 2 && *distance * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let change = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What holds for every object.
pub(super) fn metadata(object: &Value) -> Vec<Invalid> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    match metadata.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {}
        Some(Value::String(_)) | None => errors.push(Invalid {
            field: "metadata.name".into(),
            message: "Required value: give the run a name".into(),
        }),
        Some(other) => errors.push(of_type("metadata.name", other, "string")),
    }
    for map in ["labels", "annotations"] {
        for (key, value) in metadata.get(map).and_then(Value::as_object).into_iter().flatten() {
            if !value.is_string() {
                errors.push(of_type(&format!("metadata.{map}[{key}]"), value, "string"));
            }
        }
    }
    errors
}

/// Where `object` departs from the schema.
pub(super) fn errors(validator: &jsonschema::Validator, schema: &Value, object: &Value) -> Vec<Invalid> {
    let mut errors: Vec<Invalid> =
        validator.iter_errors(object).map(|error| translate(&error, schema)).collect();
    duplicates(schema, object, "", &mut errors);
    errors
}

fn translate(error: &jsonschema::ValidationError<'_>, schema: &Value) -> Invalid {
    let pointer = error.instance_path().as_str();
    let field = dotted(pointer);
    let instance: &Value = error.instance();
    let value = shown(Some(instance));
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
            let mut error = of_type(&field, instance, &expected);
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
            if pattern == decimal::PATTERN {
                text.push_str(": write a decimal number such as \"0.1\" or \"1e-7\"");
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

fn of_type(field: &str, value: &Value, expected: &str) -> Invalid {
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
fn duplicates(schema: &Value, value: &Value, path: &str, errors: &mut Vec<Invalid>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(schema) = schema.get("properties").and_then(|properties| properties.get(name)) {
                    duplicates(schema, child, &join(path, name), errors);
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
                    duplicates(schema, item, &path, errors);
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

/// The value at a path such as `spec.preferences.corruptions[1].hue`.
#[must_use]
pub fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut node = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indexes) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        node = node.get(name)?;
        for index in indexes.split(['[', ']']).filter(|index| !index.is_empty()) {
            node = node.get(index.parse::<usize>().ok()?)?;
        }
    }
    Some(node)
}

/// A value as the API server repeats it: objects and lists by their type only.
pub(super) fn shown(value: Option<&Value>) -> String {
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

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn dotted(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.parse::<usize>().is_ok() { format!("{path}[{part}]") } else { join(&path, &part) }
    })
}
