//! Values of a row, with errors that name the column.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::published::Record;

/// The text in `column`; a number as it is written, since one form's text is another form's number.
pub(super) fn text(record: &Record, column: &str) -> Result<String> {
    optional_text(record, column)?.ok_or_else(|| error(record, column, "is empty"))
}

/// The text in `column`; `None` where it is empty or the form has no such column.
pub(super) fn optional_text(record: &Record, column: &str) -> Result<Option<String>> {
    match record.fields.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(error(record, column, "holds neither text nor a number")),
    }
}

/// The texts of the list in `column`; none where it is empty or the form has no such column.
pub(super) fn texts(record: &Record, column: &str) -> Result<Vec<String>> {
    let items = match record.fields.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(error(record, column, "holds no list")),
    };
    let item = |item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(error(record, column, "holds a list of other things than text and numbers")),
    };
    items.iter().map(item).collect()
}

/// An error about `column` of this row.
pub(super) fn error(record: &Record, column: &str, problem: &str) -> Error {
    let message = format!("column `{column}` {problem}. Use the file as it was published.");
    Error::Row { place: record.place.clone(), message }
}
