//! A file of a benchmark: rows with unique ids.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use stic_contract::Digest;

use crate::data::unique_rows::read_unique;
use crate::error::{Error, Result};
use crate::io::file_digest;

pub(super) struct InputFile<T> {
    path: PathBuf,
    /// With line numbers, from 1.
    rows: Vec<(usize, T)>,
    id: fn(&T) -> &String,
}

impl<T: DeserializeOwned> InputFile<T> {
    /// Reads at least one row.
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming file and line.
    pub(super) fn read(path: &Path, id: fn(&T) -> &String) -> Result<Self> {
        Ok(Self { path: path.to_owned(), rows: read_unique(path, id)?, id })
    }

    /// Checks every row, and may correct it.
    ///
    /// # Errors
    /// [`Error::Data`] naming file, line and id.
    pub(super) fn check(&mut self, check: impl Fn(&mut T) -> Result<(), String>) -> Result<()> {
        for (line, row) in &mut self.rows {
            check(row).map_err(|reason| {
                Error::Data(format!("{}: {reason}", place(&self.path, *line, (self.id)(row))))
            })?;
        }
        Ok(())
    }

    pub(super) fn digest(&self) -> Result<Digest> {
        file_digest(&self.path)
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &T> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// The rows, each with its file, line and id.
    pub(super) fn rows_with_place(&self) -> impl Iterator<Item = (String, &T)> {
        self.rows.iter().map(|(line, row)| (place(&self.path, *line, (self.id)(row)), row))
    }
}

fn place(path: &Path, line: usize, id: &str) -> String {
    format!("{}:{line}: item {id:?}", path.display())
}
