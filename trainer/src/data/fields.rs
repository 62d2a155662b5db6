//! The fields of a model's JSON files, with errors that name the file, the field and the value found.

use std::path::Path;

use serde_json::{Map, Value};

use super::anyres::parse_pinpoints;
use crate::{Error, Result};

/// One JSON object of a file. A field that is `null` counts as absent.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The field that holds the object; empty for the outermost object.
    prefix: &'static str,
    /// `None` reads as an object without fields.
    object: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The outermost object of the file at `path`.
    pub(crate) const fn new(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { path, prefix: "", object: Some(object) }
    }

    /// As this object, without any field.
    pub(crate) const fn empty(self) -> Self {
        Self { object: None, ..self }
    }

    /// The object in field `key`.
    pub(crate) fn nested(&self, key: &'static str) -> Result<Option<Self>> {
        self.get(key)
            .map(|value| {
                let object = Some(value.as_object().ok_or_else(|| self.wrong(key, "an object"))?);
                Ok(Self { path: self.path, prefix: key, object })
            })
            .transpose()
    }

    /// As [`Fields::nested`], for errors that name fields as if they were this object's own.
    pub(crate) fn inlined(&self, key: &str) -> Option<Self> {
        self.get(key).map(|value| Self { object: value.as_object(), ..*self })
    }

    /// The field's value, and `null` where the file says `null`.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.parse(key, "a string", Value::as_str)
    }

    /// A number of things or pixels, from 1 to 2^30.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.parse(key, "a positive whole number", |value| {
            usize::try_from(value.as_u64()?).ok().filter(|n| (1..=1 << 30).contains(n))
        })
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.parse(key, "a number", Value::as_f64)
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.parse(key, "true or false", Value::as_bool)
    }

    /// Anyres grids as (height, width) in pixels.
    pub(crate) fn pinpoints(&self, key: &str) -> Result<Option<Vec<(u32, u32)>>> {
        self.parse(key, "a list of [height, width] in pixels", |value| {
            parse_pinpoints(value).filter(|pinpoints| !pinpoints.is_empty())
        })
    }

    fn parse<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(|value| parse(value).ok_or_else(|| self.wrong(key, expected))).transpose()
    }

    /// An error unless `divisor`, the value of `key`, divides `number`, the value of `other`.
    pub(crate) fn require_divides(
        &self,
        key: &str,
        divisor: usize,
        other: &str,
        number: usize,
    ) -> Result<()> {
        if number.is_multiple_of(divisor) {
            return Ok(());
        }
        Err(self.error(
            key,
            &format!(
                "{divisor} does not divide {other} {number}; copy the file from the model's repository again"
            ),
        ))
    }

    /// The field has a value that cannot be used: `reason` says why, and how to fix it.
    pub(crate) fn error(&self, key: &str, reason: &str) -> Error {
        Error::Config(format!("{}: field {}: {reason}", self.path.display(), self.full_name(key)))
    }

    /// The field's value is not what is `expected`.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.raw(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::Config(format!(
            "{}: field {} is {found}; it must be {expected}",
            self.path.display(),
            self.full_name(key)
        ))
    }

    /// `error` with the file in front.
    pub(crate) fn in_file(&self, error: &Error) -> Error {
        Error::Config(format!("{}: {error}", self.path.display()))
    }

    fn full_name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }
}
