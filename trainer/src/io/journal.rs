//! Append-only JSONL, a row an item: what a killed process had finished is there when it starts again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic;
use crate::error::{Error, Result};

/// A row that belongs to one item.
pub trait Row: Serialize + DeserializeOwned {
    /// The item's id.
    fn id(&self) -> &str;
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or begins the journal at `path`, cuts off a row that a killed process left half written, and returns
    /// the ids of the whole ones.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] naming the line of a row that is whole and cannot be read.
    pub fn open<R: Row>(path: &Path) -> Result<(Self, Vec<String>)> {
        let storage = || Error::storage(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(storage())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(storage())?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).map_err(storage())?;
        file.seek(SeekFrom::End(0)).map_err(storage())?;
        let mut ids = Vec::new();
        for (number, line) in bytes[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty())
        {
            ids.push(parse::<R>(path, number + 1, line)?.id().to_owned());
        }
        Ok((Self { path: path.to_owned(), file }, ids))
    }

    /// Appends a row and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Error::Storage`]; what was half written is cut off again.
    pub fn append<R: Row>(&mut self, row: &R) -> Result<()> {
        let mut line = serde_json::to_vec(row)
            .map_err(|e| Error::Storage { path: self.path.clone(), source: std::io::Error::other(e) })?;
        line.push(b'\n');
        let start = self.file.stream_position().map_err(Error::storage(&self.path))?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // The next open cuts it off in any case; here it is so that the error leaves nothing behind.
            let _ = self.file.set_len(start);
            return Err(Error::storage(&self.path)(e));
        }
        Ok(())
    }
}

/// Reads every row of a whole journal.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] naming file and line.
pub fn read<R: Row>(path: &Path) -> Result<Vec<R>> {
    let file = File::open(path).map_err(Error::storage(path))?;
    BufReader::new(file)
        .split(b'\n')
        .enumerate()
        .filter(|(_, line)| !matches!(line, Ok(line) if line.is_empty()))
        .map(|(number, line)| parse(path, number + 1, &line.map_err(Error::storage(path))?))
        .collect()
}

/// Merges `shards` into `path`, sorted by item id; the same rows are the same bytes whoever wrote them when.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] when an id of `expected` is missing.
pub fn seal<'a, R: Row>(
    shards: &[PathBuf],
    path: &Path,
    expected: impl Iterator<Item = &'a str>,
) -> Result<Vec<R>> {
    let mut by_id = BTreeMap::new();
    for shard in shards {
        for row in read::<R>(shard)? {
            by_id.insert(row.id().to_owned(), row);
        }
    }
    for id in expected {
        if !by_id.contains_key(id) {
            return Err(Error::Data(format!(
                "item {id:?} has no row in the {} shards beside {}; run the step that writes them again",
                shards.len(),
                path.display()
            )));
        }
    }
    let rows: Vec<R> = by_id.into_values().collect();
    write_rows(path, &rows)?;
    Ok(rows)
}

/// Writes rows as a whole file.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_rows<R: Serialize>(path: &Path, rows: &[R]) -> Result<()> {
    atomic::write_with(path, |file| {
        let mut out = std::io::BufWriter::new(file);
        for row in rows {
            serde_json::to_writer(&mut out, row)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    })
}

fn parse<R: DeserializeOwned>(path: &Path, number: usize, line: &[u8]) -> Result<R> {
    serde_json::from_slice(line).map_err(|e| {
        Error::Data(format!(
            "{}:{number}: {e}; the file was edited or damaged, make it again",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        id: String,
        n: u32,
    }

    impl Row for Line {
        fn id(&self) -> &str {
            &self.id
        }
    }

    fn line(id: &str, n: u32) -> Line {
        Line { id: id.into(), n }
    }

    #[test]
    fn a_half_written_row_is_cut_off_and_the_rest_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        let (mut journal, ids) = Journal::open::<Line>(&path).expect("new");
        assert!(ids.is_empty());
        journal.append(&line("b", 1)).expect("written");
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(br#"{"id":"c","#).expect("half a row");
        let (mut journal, ids) = Journal::open::<Line>(&path).expect("opens again");
        assert_eq!(ids, ["b"]);
        journal.append(&line("a", 2)).expect("written");
        assert_eq!(
            std::fs::read_to_string(&path).expect("text"),
            "{\"id\":\"b\",\"n\":1}\n{\"id\":\"a\",\"n\":2}\n"
        );
    }

    #[test]
    fn sealing_sorts_and_misses_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let shards: Vec<_> = (0..2).map(|i| dir.path().join(format!("{i}.jsonl"))).collect();
        write_rows(&shards[0], &[line("c", 1), line("a", 2)]).expect("written");
        write_rows(&shards[1], &[line("b", 3)]).expect("written");
        let sealed = dir.path().join("sealed.jsonl");
        let rows = seal::<Line>(&shards, &sealed, ["a", "b", "c"].into_iter()).expect("sealed");
        assert_eq!(rows, [line("a", 2), line("b", 3), line("c", 1)]);
        assert_eq!(read::<Line>(&sealed).expect("reads"), rows);
        let error = seal::<Line>(&shards, &sealed, ["d"].into_iter()).expect_err("d is missing").to_string();
        assert!(error.contains("\"d\" has no row"), "{error}");
    }

    #[test]
    fn a_broken_row_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        std::fs::write(&path, "{\"id\":\"b\",\"n\":1}\n{oops}\n").expect("written");
        let error = Journal::open::<Line>(&path).expect_err("line 2").to_string();
        assert!(error.contains("j.jsonl:2:"), "{error}");
    }
}
