//! Random access to a file of rows that are sorted by id, with one byte for each row in memory.

use std::cmp::Ordering;
use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering as MemoryOrdering};

use super::row::Row;
use super::row_cursor::RowCursor;
use crate::error::{Error, Result};

/// Rows are read in groups of this size, so that only the offset of each group is kept.
const GROUP: usize = 8;

/// Rows by index, read on access.
#[derive(Debug)]
pub struct Indexed<R> {
    path: PathBuf,
    file: File,
    /// The offset of every [`GROUP`]th row.
    groups: Vec<u64>,
    /// The offset of the end of the last row.
    end: u64,
    len: usize,
    /// The index after the last row found, where the next search starts: rows of a journal are nearly in order. Results
    /// do not depend on it.
    next_guess: AtomicUsize,
    rows: PhantomData<fn() -> R>,
}

impl<R: Row> Indexed<R> {
    /// Reads the offsets of the rows in `path`.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut cursor = RowCursor::open(path)?;
        let (mut groups, mut len) = (Vec::new(), 0);
        while cursor.advance()? {
            if len % GROUP == 0 {
                groups.push(cursor.start());
            }
            len += 1;
        }
        Ok(Self {
            path: path.to_owned(),
            end: cursor.end(),
            file: cursor.into_file(),
            groups,
            len,
            next_guess: AtomicUsize::new(0),
            rows: PhantomData,
        })
    }

    /// The number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the row at `index`.
    ///
    /// # Errors
    /// [`Error::Data`] for a row that cannot be deserialized, or an index past the end; [`Error::Storage`].
    pub fn get(&self, index: usize) -> Result<R> {
        let damaged = |reason: &dyn std::fmt::Display| {
            Error::Data(format!(
                "{}: row {}: {reason}; the file was edited or damaged, delete it and run the step again",
                self.path.display(),
                index + 1
            ))
        };
        let Some(start) = self.groups.get(index / GROUP).filter(|_| index < self.len) else {
            return Err(damaged(&"does not exist"));
        };
        let end = self.groups.get(index / GROUP + 1).unwrap_or(&self.end);
        let mut group = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut group, *start).map_err(Error::storage(&self.path))?;
        let mut lines = group.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let line = lines.nth(index % GROUP).ok_or_else(|| damaged(&"does not exist"))?;
        serde_json::from_slice(line).map_err(|e| damaged(&e))
    }

    /// The index of the row with `id`.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no such row; and as [`Indexed::get`].
    pub fn index_of(&self, id: &str) -> Result<usize> {
        let is_before = |index: usize| Ok::<_, Error>(self.compare(index, id)? == Ordering::Less);
        // A galloping search. Afterwards the rows before `low` are smaller than `id`, those from `high` on are not.
        let mut low = self.next_guess.load(MemoryOrdering::Relaxed).min(self.len());
        let mut high = low;
        let mut width = 1;
        while low > 0 && !is_before(low - 1)? {
            high = low - 1;
            low = low.saturating_sub(width);
            width *= 2;
        }
        let mut width = 1;
        while high < self.len() && is_before(high)? {
            low = high + 1;
            high = (high + width).min(self.len());
            width *= 2;
        }
        while low < high {
            let middle = low.midpoint(high);
            if is_before(middle)? { low = middle + 1 } else { high = middle }
        }
        if low == self.len() || self.compare(low, id)? != Ordering::Equal {
            return Err(Error::Data(format!(
                "item {id:?} is not in {}; the file was edited or is of other items, delete it and run the step again",
                self.path.display()
            )));
        }
        self.next_guess.store(low + 1, MemoryOrdering::Relaxed);
        Ok(low)
    }

    fn compare(&self, index: usize, id: &str) -> Result<Ordering> {
        Ok(self.get(index)?.id().cmp(id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Line, line, write};
    use super::*;

    #[test]
    fn every_row_is_found_after_any_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sorted.jsonl");
        for count in [0, 1, 2, 7, 40] {
            let id = |i: usize| format!("{i:03}");
            let rows: Vec<Line> = (0..count).map(|i| line(&id(i), i as u32)).collect();
            write(&path, &rows);
            let indexed = Indexed::<Line>::open(&path).expect("opens");
            assert_eq!((indexed.len(), indexed.is_empty()), (count, count == 0));
            for from in 0..count {
                for (to, row) in rows.iter().enumerate() {
                    assert_eq!(indexed.index_of(&id(from)).expect("there"), from);
                    assert_eq!(indexed.index_of(&id(to)).expect("there"), to);
                    assert_eq!(indexed.get(to).expect("there"), *row);
                }
            }
            for missing in ["", "0005", "zzz"] {
                let error = indexed.index_of(missing).expect_err("not there").to_string();
                assert!(error.contains(&format!("item {missing:?} is not in")), "{error}");
            }
            let error = indexed.get(count).expect_err("past the last").to_string();
            assert!(error.contains("sorted.jsonl"), "{error}");
        }
    }
}
