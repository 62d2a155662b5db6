//! Journals: append-only JSONL with one row for each finished item, which survive the death of the process.
//!
//! Only one row is in memory at a time.

mod indexed;
mod lookup;
mod row;
mod row_cursor;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::indexed::Indexed;
pub use self::lookup::RowLookup;
pub use self::row::Row;
use self::row_cursor::{RowCursor, RowLocation};
use super::atomic;
use crate::error::{Error, Result};

/// A journal that is open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or creates the journal at `path` and calls `visit` with the id of each complete row, in the order they were
    /// appended. An incomplete last row, which a killed process left, is cut off.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] naming the line of a complete row that cannot be deserialized; the first
    /// error of `visit`.
    pub fn open<R: Row>(path: &Path, mut visit: impl FnMut(&str) -> Result<()>) -> Result<Self> {
        let storage = || Error::storage(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(storage())?;
        let mut cursor = RowCursor::over(path, file);
        while cursor.advance()? {
            visit(cursor.row::<R>()?.id()).map_err(|e| e.in_row(&cursor.place()))?;
        }
        let complete = cursor.end();
        let mut file = cursor.into_file();
        let length = file.metadata().map_err(storage())?.len();
        if length > complete {
            tracing::warn!(
                journal = %path.display(),
                bytes = length - complete,
                "the last row is incomplete because its process was killed; cutting it off and processing its item again"
            );
            file.set_len(complete).map_err(storage())?;
        }
        file.seek(SeekFrom::Start(complete)).map_err(storage())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a row and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Error::Storage`]; a partly written row is cut off.
    pub fn append<R: Row>(&mut self, row: &R) -> Result<()> {
        let mut line = serde_json::to_vec(row)
            .map_err(|e| Error::Storage { path: self.path.clone(), source: std::io::Error::other(e) })?;
        line.push(b'\n');
        let start = self.file.stream_position().map_err(Error::storage(&self.path))?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // The next open would cut it off too, but a reader may come first.
            let _ = self.file.set_len(start);
            return Err(Error::storage(&self.path)(e));
        }
        Ok(())
    }
}

/// The rows of a journal, one at a time. An incomplete last row is ignored.
///
/// # Errors
/// [`Error::Storage`]. A row may be [`Error::Data`] naming file and line, which ends the iteration.
pub fn read<R: Row>(path: &Path) -> Result<impl Iterator<Item = Result<R>> + use<R>> {
    let mut cursor = RowCursor::open(path)?;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = cursor.advance().and_then(|more| more.then(|| cursor.row()).transpose()).transpose();
        ended = !matches!(row, Some(Ok(_)));
        row
    }))
}

/// Writes one row to `out`, which is the file at `path`.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_row(out: &mut impl Write, path: &Path, row: &impl Serialize) -> Result<()> {
    let written = serde_json::to_writer(&mut *out, row).map_err(std::io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).map_err(Error::storage(path))
}

/// Merges `shards` into `path`, with one row for each of `items`, in their order. Rows are copied as bytes, so the
/// result does not depend on which shard holds them. If two shards have a row for an item, the later one is used.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] for an item without a row, and for a row without an item.
pub fn seal<R: Row, I: Row>(shards: &[PathBuf], path: &Path, items: &Indexed<I>) -> Result<()> {
    let mut locations: Vec<Option<RowLocation>> = vec![None; items.len()];
    for (shard, file) in (0..).zip(shards) {
        let mut cursor = RowCursor::open(file)?;
        while cursor.advance()? {
            let index = items.index_of(cursor.row::<R>()?.id()).map_err(|e| e.in_row(&cursor.place()))?;
            locations[index] = Some(cursor.location(shard)?);
        }
    }
    if let Some(missing) = locations.iter().position(Option::is_none) {
        return Err(Error::Data(format!(
            "item {:?} has no row in the {} shards beside {}; run the step that writes them again",
            items.get(missing)?.id(),
            shards.len(),
            path.display()
        )));
    }
    let sources = shards
        .iter()
        .map(|shard| Ok((shard, File::open(shard).map_err(Error::storage(shard))?)))
        .collect::<Result<Vec<_>>>()?;
    atomic::write_with(path, |file| {
        let mut out = BufWriter::new(file);
        let mut row = Vec::new();
        for location in locations.iter().flatten() {
            let (shard, source) = &sources[location.file as usize];
            row.resize(location.length.get() as usize, 0);
            source.read_exact_at(&mut row, location.start).map_err(Error::storage(shard))?;
            out.write_all(&row).map_err(Error::storage(path))?;
        }
        out.flush().map_err(Error::storage(path))
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Line {
        pub(super) id: String,
        n: u32,
    }

    impl Row for Line {
        fn id(&self) -> &str {
            &self.id
        }
    }

    pub(super) fn line(id: &str, n: u32) -> Line {
        Line { id: id.into(), n }
    }

    pub(super) fn write(path: &Path, rows: &[Line]) {
        let text: String =
            rows.iter().map(|row| format!("{}\n", serde_json::to_string(row).expect("a row"))).collect();
        std::fs::write(path, text).expect("written");
    }

    fn opened(path: &Path) -> (Journal, Vec<String>) {
        let mut ids = Vec::new();
        let journal = Journal::open::<Line>(path, |id| {
            ids.push(id.to_owned());
            Ok(())
        });
        (journal.expect("opens"), ids)
    }

    #[test]
    fn an_incomplete_row_is_cut_off_and_the_others_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        let (mut journal, ids) = opened(&path);
        assert!(ids.is_empty());
        journal.append(&line("b", 1)).expect("written");
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(br#"{"id":"c","#).expect("half a row");
        assert_eq!(
            read::<Line>(&path).expect("opens").map(Result::unwrap).collect::<Vec<_>>(),
            [line("b", 1)]
        );
        let (mut journal, ids) = opened(&path);
        assert_eq!(ids, ["b"]);
        journal.append(&line("a", 2)).expect("written");
        assert_eq!(
            std::fs::read_to_string(&path).expect("text"),
            "{\"id\":\"b\",\"n\":1}\n{\"id\":\"a\",\"n\":2}\n"
        );
    }

    #[test]
    fn sealing_writes_one_row_for_each_item_in_their_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let shards = [path("0.jsonl"), path("1.jsonl")];
        write(&shards[0], &[line("c", 1), line("a", 2)]);
        write(&shards[1], &[line("b", 3), line("c", 1)]);
        let items = |ids: &[&str]| {
            write(&path("items.jsonl"), &ids.iter().map(|id| line(id, 0)).collect::<Vec<_>>());
            Indexed::<Line>::open(&path("items.jsonl")).expect("opens")
        };
        let sealed = path("sealed.jsonl");
        let refused = |ids: &[&str]| {
            let error = seal::<Line, Line>(&shards, &sealed, &items(ids)).expect_err("refused").to_string();
            assert!(!sealed.exists(), "nothing is written");
            error
        };
        let error = refused(&["a", "b", "c", "d"]);
        assert!(error.contains("\"d\" has no row in the 2 shards"), "{error}");
        let error = refused(&["a", "b"]);
        assert!(error.contains("0.jsonl:1: item \"c\" is not in"), "{error}");
        seal::<Line, Line>(&shards, &sealed, &items(&["a", "b", "c"])).expect("sealed");
        let rows: Vec<Line> = read(&sealed).expect("opens").map(Result::unwrap).collect();
        assert_eq!(rows, [line("a", 2), line("b", 3), line("c", 1)]);
    }

    #[test]
    fn an_error_names_the_row_and_ends_the_iteration() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        std::fs::write(&path, "{\"id\":\"b\",\"n\":1}\n\n{oops}\n{\"id\":\"c\",\"n\":1}\n").expect("written");
        let error = Journal::open::<Line>(&path, |_| Ok(())).expect_err("line 3").to_string();
        assert!(error.contains("j.jsonl:3:"), "{error}");
        let rows: Vec<Result<Line>> = read(&path).expect("opens").collect();
        assert!(matches!(rows.as_slice(), [Ok(_), Err(Error::Data(_))]), "{rows:?}");
    }

    #[test]
    fn a_location_takes_sixteen_bytes() {
        assert_eq!(size_of::<Option<RowLocation>>(), 16);
    }
}
