//! The lines of a JSONL file, one in memory at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Row;
use crate::error::{Error, Result};

const BUFFER: usize = 64 << 10;

/// Walks over the whole lines of a file. A last line without its end, which a killed process left, is none.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: usize,
    start: u64,
    end: u64,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self::of(path, File::open(path).map_err(Error::storage(path))?))
    }

    /// Over `file`, which is at its beginning.
    pub(super) fn of(path: &Path, file: File) -> Self {
        let reader = BufReader::with_capacity(BUFFER, file);
        Self { path: path.to_owned(), reader, number: 0, start: 0, end: 0, line: Vec::new() }
    }

    /// Goes on to the next line that is not blank; false where there is none.
    pub(super) fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line).map_err(Error::storage(&self.path))?;
            if self.line.last() != Some(&b'\n') {
                return Ok(false);
            }
            self.number += 1;
            self.start = self.end;
            self.end += read as u64;
            if read > 1 {
                return Ok(true);
            }
        }
    }

    /// The row of the line.
    pub(super) fn row<R: Row>(&self) -> Result<R> {
        serde_json::from_slice(&self.line).map_err(|e| {
            Error::Data(format!("{}: {e}; the file was edited or damaged, make it again", self.place()))
        })
    }

    /// The file and the number of the line, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    /// Where the line begins in the file.
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// Where it ends, its line break included.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn into_file(self) -> File {
        self.reader.into_inner()
    }
}
