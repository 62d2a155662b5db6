//! Answers as an API server would, without one: strict decoding, defaulting, structural validation, CEL.
//!
//! The schema is the one of the CustomResourceDefinition and the order of the checks is the API server's, so that a
//! manifest that passes here is accepted there and becomes the same object.

mod defaulting;
mod structural;

use std::fmt;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

pub use structural::value_at;

/// What an API server would answer to one mistake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Invalid {
    /// The field, such as `spec.training.dpo.beta`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A kind cannot be admitted at all: a fault of the schema, not of an object.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is no such kind.
    #[error("no kind {0} in stic.dev/v1alpha1")]
    NoSuchKind(String),
    /// The schema is none.
    #[error("the schema of {kind} cannot be used: {reason}")]
    Schema {
        /// The kind.
        kind: String,
        /// Why.
        reason: String,
    },
}

/// The admission of one kind.
#[derive(Debug)]
pub struct Admission {
    schema: Value,
    structural: jsonschema::Validator,
    rules: CompiledSchema,
    cel: Validator,
}

impl Admission {
    /// The admission of `kind`.
    ///
    /// # Errors
    /// The kind is none of ours, or its schema is broken, which the tests exclude.
    pub fn of(kind: &str) -> Result<Self, Unusable> {
        let broken = |reason: String| Unusable::Schema { kind: kind.into(), reason };
        let schema = crate::schema::of(kind)
            .map_err(|e| broken(e.to_string()))?
            .ok_or_else(|| Unusable::NoSuchKind(kind.into()))?;
        let structural = jsonschema::validator_for(&schema).map_err(|e| broken(e.to_string()))?;
        let rules = compile_schema(&schema);
        if let Some(error) = rules.compilation_errors().first() {
            return Err(broken(error.to_string()));
        }
        Ok(Self { schema, structural, rules, cel: Validator::new() })
    }

    /// `object` as the API server would store it, in place of `old` if that is given.
    ///
    /// # Errors
    /// Everything that is wrong with it. As on the API server, CEL rules are evaluated only if all else is right.
    pub fn admit(&self, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Invalid>> {
        let mut errors = structural::unknown_fields(&self.schema, object);
        let mut object = object.clone();
        defaulting::prune_nulls(&self.schema, &mut object);
        defaulting::fill(&self.schema, &mut object);
        errors.extend(structural::metadata(&object));
        errors.extend(structural::errors(&self.structural, &self.schema, &object));
        if errors.is_empty()
            && let Err(broken) = self.cel.validate_compiled(&self.rules, &object, old)
        {
            errors.extend(broken.into_vec().into_iter().map(|error| {
                let field = error.field_path.trim_start_matches('.').to_owned();
                let value = structural::shown(value_at(&object, &field));
                Invalid { field, message: format!("Invalid value: {value}: {}", error.message) }
            }));
        }
        if errors.is_empty() {
            Ok(object)
        } else {
            errors.sort();
            errors.dedup();
            Err(errors)
        }
    }

    /// The schema.
    #[must_use]
    pub const fn schema(&self) -> &Value {
        &self.schema
    }
}
