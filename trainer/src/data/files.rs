//! Reading the small files beside a model.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The text of a file; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::Config(format!("{}: is not UTF-8; copy the file again", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::storage(path)(error)),
    }
}

/// A JSON object; `None` where there is no file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Error::Config(format!("{}: {error}; copy the file again", path.display())))
}
