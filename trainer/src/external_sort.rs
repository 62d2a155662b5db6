//! External merge sort: records that need not fit in memory, in sorted runs on the disk that are merged on reading.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes of records that are buffered before they are spilled to a run.
const MEMORY: usize = 4 << 20;
/// Bytes of memory that a record takes beyond its key and value.
const OVERHEAD: usize = size_of::<Record>() + 32;
const BUFFER: usize = 16 << 10;

/// (key, value).
pub type Record = (Vec<u8>, Vec<u8>);

/// Collects records in any order.
#[derive(Debug)]
pub struct ExternalSorter {
    dir: PathBuf,
    memory: usize,
    records: Vec<Record>,
    in_memory: usize,
    count: u64,
    bytes: u64,
    runs: Vec<File>,
}

impl ExternalSorter {
    /// Spills to unnamed temporary files in `dir`, which the operating system removes however the process ends.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self::with_memory(dir, MEMORY)
    }

    fn with_memory(dir: &Path, memory: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            memory,
            records: Vec::new(),
            in_memory: 0,
            count: 0,
            bytes: 0,
            runs: Vec::new(),
        }
    }

    /// The number of records pushed.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The bytes of the keys and values pushed.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// [`Error::Storage`].
    pub fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.count += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.in_memory += OVERHEAD + key.len() + value.len();
        self.records.push((key, value));
        if self.in_memory < self.memory {
            return Ok(());
        }
        self.spill().map_err(Error::storage(&self.dir))
    }

    fn spill(&mut self) -> std::io::Result<()> {
        self.records.sort();
        let mut out = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(&self.dir)?);
        for (key, value) in self.records.drain(..) {
            for part in [&key, &value] {
                out.write_all(&(part.len() as u64).to_le_bytes())?;
                out.write_all(part)?;
            }
        }
        let mut run = out.into_inner()?;
        run.rewind()?;
        self.runs.push(run);
        self.in_memory = 0;
        Ok(())
    }

    /// All records, ordered by key and then by value.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn sorted(mut self) -> Result<Sorted> {
        self.records.sort();
        let mut sources: Vec<Source> =
            self.runs.into_iter().map(|run| Source::Run(BufReader::with_capacity(BUFFER, run))).collect();
        sources.push(Source::Memory(self.records.into_iter()));
        let mut sorted = Sorted { dir: self.dir, sources, heads: BinaryHeap::new() };
        for source in 0..sorted.sources.len() {
            sorted.refill(source)?;
        }
        Ok(sorted)
    }
}

#[derive(Debug)]
enum Source {
    Run(BufReader<File>),
    Memory(std::vec::IntoIter<Record>),
}

impl Source {
    fn next(&mut self) -> std::io::Result<Option<Record>> {
        let run = match self {
            Self::Run(run) => run,
            Self::Memory(records) => return Ok(records.next()),
        };
        let mut length = [0; 8];
        match run.read_exact(&mut length) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut key = vec![0; u64::from_le_bytes(length) as usize];
        run.read_exact(&mut key)?;
        run.read_exact(&mut length)?;
        let mut value = vec![0; u64::from_le_bytes(length) as usize];
        run.read_exact(&mut value)?;
        Ok(Some((key, value)))
    }
}

/// Iterates over the records in order. Of each run, one record is in memory.
#[derive(Debug)]
pub struct Sorted {
    dir: PathBuf,
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Record, usize)>>,
}

impl Sorted {
    fn refill(&mut self, source: usize) -> Result<()> {
        let record = self.sources[source].next().map_err(Error::storage(&self.dir))?;
        self.heads.extend(record.map(|record| Reverse((record, source))));
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((record, source)) = self.heads.pop()?;
        Some(self.refill(source).map(|()| record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_depend_on_memory_and_no_file_is_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = |i: u64| {
            let key = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 300).to_string().into_bytes();
            (key, vec![i as u8; i as usize % 5])
        };
        let mut expected: Vec<Record> = (0..1000).map(record).collect();
        expected.sort();
        for (memory, runs) in [(MEMORY, 0), (10 * OVERHEAD, 100), (1, 1000)] {
            let mut sorter = ExternalSorter::with_memory(dir.path(), memory);
            for i in 0..1000 {
                let (key, value) = record(i);
                sorter.push(key, value).expect("pushed");
            }
            assert!(sorter.count() == 1000 && sorter.runs.len() >= runs, "{}", sorter.runs.len());
            let found: Vec<Record> = sorter.sorted().expect("sorted").map(Result::unwrap).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        assert_eq!(ExternalSorter::new(dir.path()).sorted().expect("empty").count(), 0);
    }
}
