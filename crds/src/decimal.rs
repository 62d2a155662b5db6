//! Decimal numbers. They are strings, because Kubernetes' API conventions do not allow floats.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The regular expression that a decimal matches.
pub const PATTERN: &str = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$";

/// A decimal number, written as a string: `"0.1"`, `"1e-7"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(String);

impl Decimal {
    /// Wraps `text` without a check; [`value`](Self::value) parses it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number. `None` if the text is not a finite number.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.0.parse().ok().filter(|value: &f64| value.is_finite())
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_have_a_value() {
        assert_eq!(Decimal::new("1e-7").value(), Some(1e-7));
        assert_eq!(Decimal::new("0.0009765625").value(), Some(1.0 / 1024.0));
        assert_eq!(Decimal::new("half").value(), None);
        assert_eq!(Decimal::new("1e999").value(), None);
    }
}
