//! CEL rules, as values of `x-kubernetes-validations`.

use serde_json::{Value, json};

/// A rule and the sentence a person reads when it does not hold.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A rule about the field `path`, relative to the object the rule stands on.
pub(crate) fn rule_at(path: &str, rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message, "fieldPath": path})
}

/// A decimal above 0.
pub(crate) fn positive() -> Value {
    json!([rule("double(self) > 0.0", "must be more than 0")])
}

/// A decimal from 0 up.
pub(crate) fn not_negative() -> Value {
    json!([rule("double(self) >= 0.0", "must be 0 or more")])
}

/// A decimal from 0 to 1.
pub(crate) fn share() -> Value {
    json!([rule("double(self) >= 0.0 && double(self) <= 1.0", "must lie between 0 and 1")])
}

/// A decimal above 0, at most 1.
pub(crate) fn positive_share() -> Value {
    json!([rule("double(self) > 0.0 && double(self) <= 1.0", "must be more than 0 and at most 1")])
}

/// A decimal from 0 to 1, without 1.
pub(crate) fn below_one() -> Value {
    json!([rule("double(self) >= 0.0 && double(self) < 1.0", "must be 0 or more and less than 1")])
}

/// A decimal from 0 to one half.
pub(crate) fn up_to_half() -> Value {
    json!([rule("double(self) >= 0.0 && double(self) <= 0.5", "must lie between 0 and 0.5")])
}

/// A path that stays inside its volume.
pub(crate) fn relative_path() -> Value {
    json!([rule(
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        "must be a path inside the volume: without a leading / and without .."
    )])
}

/// That exactly one of `fields` is set.
pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    let count =
        fields.iter().map(|field| format!("(has(self.{field}) ? 1 : 0)")).collect::<Vec<_>>().join(" + ");
    json!([rule(&format!("{count} == 1"), &format!("exactly one of {} must be set", fields.join(", ")))])
}
