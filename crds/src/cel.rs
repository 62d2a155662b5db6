//! CEL validation rules, as values of `x-kubernetes-validations`.
//!
//! A message says what is wrong, which field it is about, and how to fix it. The API server puts the path and the value
//! of the field before it.

use serde_json::{Value, json};

/// A rule about the object that carries it. `message` is shown when the rule does not hold.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A rule whose violation is reported at the field `path`, relative to the object that carries the rule.
pub(crate) fn rule_at(path: &str, rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message, "fieldPath": path})
}

/// A rule about a decimal. The API server shows the message for text that is no number, too.
fn number(range: &str, message: &str) -> Value {
    json!([rule(range, &format!("{message}, written as a decimal such as \"0.1\" or \"1e-7\""))])
}

pub(crate) fn positive() -> Value {
    number("double(self) > 0.0", "must be greater than 0")
}

pub(crate) fn not_negative() -> Value {
    number("double(self) >= 0.0", "must be greater than or equal to 0")
}

pub(crate) fn share() -> Value {
    number("double(self) >= 0.0 && double(self) <= 1.0", "must be between 0 and 1")
}

pub(crate) fn positive_share() -> Value {
    number("double(self) > 0.0 && double(self) <= 1.0", "must be greater than 0 and at most 1")
}

pub(crate) fn below_one() -> Value {
    number("double(self) >= 0.0 && double(self) < 1.0", "must be at least 0 and less than 1")
}

pub(crate) fn up_to_half() -> Value {
    number("double(self) >= 0.0 && double(self) <= 0.5", "must be between 0 and 0.5")
}

/// Text that matches `pattern`. A pattern of the schema would be all that a message says.
pub(crate) fn text(pattern: &str, message: &str) -> Value {
    json!([rule(&format!("self.matches('{pattern}')"), message)])
}

/// A path that stays inside its volume.
pub(crate) fn relative_path() -> Value {
    json!([rule(
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        "must be a relative path inside the volume: remove the leading / and every .."
    )])
}

pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    let count =
        fields.iter().map(|field| format!("(has(self.{field}) ? 1 : 0)")).collect::<Vec<_>>().join(" + ");
    json!([rule(
        &format!("{count} == 1"),
        &format!("exactly one of {} must be set: keep or add one", fields.join(", "))
    )])
}
