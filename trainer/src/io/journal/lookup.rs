//! Random access to the rows of several files by a key, with a few bytes for each row in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use stic_contract::Digest;

use super::row_cursor::{RowCursor, RowLocation};
use crate::error::{Error, Result};

/// Rows by key, read on access. Of rows with the same key the one that was added first counts.
#[derive(Debug)]
pub struct RowLookup<R> {
    files: Vec<(PathBuf, File)>,
    rows: HashMap<u128, RowLocation>,
    row: PhantomData<fn() -> R>,
}

impl<R> Default for RowLookup<R> {
    fn default() -> Self {
        Self { files: Vec::new(), rows: HashMap::new(), row: PhantomData }
    }
}

impl<R: DeserializeOwned> RowLookup<R> {
    /// Adds the rows of the file at `path`. An incomplete last row is ignored.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] naming the line of a complete row that cannot be deserialized.
    pub fn add(&mut self, path: &Path, key: impl Fn(&R) -> String) -> Result<()> {
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let mut cursor = RowCursor::open(path)?;
        while cursor.advance()? {
            if let Entry::Vacant(new) = self.rows.entry(fingerprint(&key(&cursor.row()?))) {
                new.insert(cursor.location(file)?);
            }
        }
        self.files.push((path.to_owned(), cursor.into_file()));
        Ok(())
    }

    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.rows.contains_key(&fingerprint(key))
    }

    /// The row with this key.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] if the file was changed since the row was added.
    pub fn get(&self, key: &str) -> Result<Option<R>> {
        let Some(location) = self.rows.get(&fingerprint(key)) else { return Ok(None) };
        let Some((path, file)) = self.files.get(location.file as usize) else { return Ok(None) };
        let mut line = vec![0; location.length.get() as usize];
        file.read_exact_at(&mut line, location.start).map_err(Error::storage(path))?;
        serde_json::from_slice(&line).map(Some).map_err(|error| {
            Error::Data(format!(
                "{}: {error}; the file was changed while it was read, run the step again",
                path.display()
            ))
        })
    }
}

/// Half a digest: no two keys have the same.
fn fingerprint(key: &str) -> u128 {
    Digest::of(key.as_bytes()).bytes().first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::tests::{Line, line, write};
    use super::*;

    #[test]
    fn the_first_row_of_a_key_is_found_and_a_torn_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (first, second) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
        write(&first, &[line("x", 1), line("y", 2)]);
        write(&second, &[line("y", 3), line("z", 4)]);
        let mut torn = File::options().append(true).open(&second).expect("it is there");
        torn.write_all(br#"{"id":"torn","n":5}"#).expect("written");
        let mut lookup = RowLookup::<Line>::default();
        for path in [&first, &second] {
            lookup.add(path, |line| line.id.clone()).expect("added");
        }
        let found = ["x", "y", "z", "torn"].map(|id| lookup.get(id).expect("read"));
        assert_eq!(found, [Some(line("x", 1)), Some(line("y", 2)), Some(line("z", 4)), None]);
        assert!(lookup.contains("z") && !lookup.contains("torn"));
    }
}
