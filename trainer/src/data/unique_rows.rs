//! Rows with unique ids.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::row_problem;
use super::rows;
use crate::error::{Error, Result};

/// The rows of `path` with their line numbers, from 1; at least one.
///
/// # Errors
/// [`Error::Data`] naming file and line.
pub fn read_unique<T: DeserializeOwned>(path: &Path, id: impl Fn(&T) -> &String) -> Result<Vec<(usize, T)>> {
    let mut found = Vec::new();
    let mut lines = HashMap::new();
    rows::for_each(path, &["id"], |row| {
        let value: T = row_problem::parse(&row).map_err(|problem| problem.into_error(path))?;
        let (line, id) = (row.line, id(&value));
        if let Some(first) = lines.insert(id.clone(), line) {
            return Err(Error::Data(format!(
                "{}:{line}: id {id:?} is already used on line {first}; give each row a unique id",
                path.display()
            )));
        }
        found.push((line, value));
        Ok(())
    })?;
    if found.is_empty() {
        return Err(Error::Data(format!("{}: no rows; add some or correct the path", path.display())));
    }
    Ok(found)
}
