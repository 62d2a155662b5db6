//! Reads the rows of a JSONL file, one in memory at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const BUFFER: usize = 64 << 10;

/// The place of a row in one of several files. It takes 16 bytes, also as an [`Option`].
#[derive(Debug, Clone, Copy)]
pub(super) struct RowLocation {
    pub(super) start: u64,
    pub(super) file: u32,
    pub(super) length: NonZeroU32,
}

/// Walks over the complete lines of a file. A last line without line break, which a killed process left, is ignored.
pub(super) struct RowCursor {
    path: PathBuf,
    reader: BufReader<File>,
    line_number: usize,
    start: u64,
    end: u64,
    line: Vec<u8>,
}

impl RowCursor {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self::over(path, File::open(path).map_err(Error::storage(path))?))
    }

    /// Walks over `file`, the position of which must be its beginning.
    pub(super) fn over(path: &Path, file: File) -> Self {
        let reader = BufReader::with_capacity(BUFFER, file);
        Self { path: path.to_owned(), reader, line_number: 0, start: 0, end: 0, line: Vec::new() }
    }

    /// Advances to the next line that is not blank; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line).map_err(Error::storage(&self.path))?;
            if self.line.last() != Some(&b'\n') {
                return Ok(false);
            }
            self.line_number += 1;
            self.start = self.end;
            self.end += read as u64;
            if read > 1 {
                return Ok(true);
            }
        }
    }

    /// The row on the current line.
    pub(super) fn row<R: DeserializeOwned>(&self) -> Result<R> {
        serde_json::from_slice(&self.line).map_err(|e| {
            Error::Data(format!(
                "{}: {e}; the file was edited or damaged, delete it and run the step again",
                self.place()
            ))
        })
    }

    /// File and line number, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.line_number)
    }

    /// Where the line is, in file `file` of several.
    pub(super) fn location(&self, file: u32) -> Result<RowLocation> {
        let length = u32::try_from(self.end - self.start).ok().and_then(NonZeroU32::new);
        let length = length.ok_or_else(|| {
            Error::Data(format!(
                "{}: is longer than 4 GiB; delete the file and run the step again",
                self.place()
            ))
        })?;
        Ok(RowLocation { start: self.start, file, length })
    }

    /// The offset of the line in the file.
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// The offset of the line's end, its line break included.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn into_file(self) -> File {
        self.reader.into_inner()
    }
}
