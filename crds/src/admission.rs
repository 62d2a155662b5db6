//! Admission of objects as an API server does it, without one: strict decoding, defaulting, structural validation, CEL.
//!
//! Schema and order of the checks are those of the API server, so that a manifest accepted here is accepted there and
//! becomes the same object.

mod defaulting;
mod invalid;
mod path;
mod spelling;
mod structural;
mod unknown_fields;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;
use stic_contract::RunKind;

pub use invalid::Invalid;
pub use path::value_at;

/// The schema of a kind cannot be used. This is a bug in this crate, never a mistake of the user.
#[derive(Debug, thiserror::Error)]
#[error("the schema of {kind} cannot be used: {reason}")]
pub struct UnusableSchema {
    /// The kind with the schema.
    pub kind: RunKind,
    /// Why it cannot be used.
    pub reason: String,
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
    /// Compiles the schema of `kind`.
    ///
    /// # Errors
    /// If the schema is broken, which the tests exclude.
    pub fn of(kind: RunKind) -> Result<Self, UnusableSchema> {
        let unusable = |reason: String| UnusableSchema { kind, reason };
        let schema = crate::schema::of(kind).map_err(|e| unusable(e.to_string()))?;
        let structural = jsonschema::validator_for(&schema).map_err(|e| unusable(e.to_string()))?;
        let rules = compile_schema(&schema);
        if let Some(error) = rules.compilation_errors().first() {
            return Err(unusable(error.to_string()));
        }
        Ok(Self { schema, structural, rules, cel: Validator::new() })
    }

    /// Returns `object` as the API server would store it, defaults included. With `old`, the change from `old` is
    /// checked too.
    ///
    /// # Errors
    /// Everything that is wrong with the object. As on the API server, CEL rules are only evaluated if all else is
    /// valid.
    pub fn admit(&self, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Invalid>> {
        let mut errors = unknown_fields::find(&self.schema, object);
        let mut object = object.clone();
        defaulting::prune_nulls(&self.schema, &mut object);
        defaulting::fill(&self.schema, &mut object);
        errors.extend(structural::check_metadata(&object));
        errors.extend(structural::check(&self.structural, &self.schema, &object));
        if errors.is_empty()
            && let Err(broken) = self.cel.validate_compiled(&self.rules, &object, old)
        {
            errors.extend(broken.into_vec().into_iter().map(|error| {
                let field = error.field_path.trim_start_matches('.').to_owned();
                let value = structural::display_value(value_at(&object, &field));
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

    /// The structural schema of the kind.
    #[must_use]
    pub const fn schema(&self) -> &Value {
        &self.schema
    }
}
