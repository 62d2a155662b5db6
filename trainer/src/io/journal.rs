//! Append-only JSONL, a row an item: what a killed process had finished is there when it starts again.
//!
//! However many rows there are, one is in memory at a time.

mod indexed;
mod lines;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::indexed::Indexed;
use self::lines::Lines;
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
    /// Opens or begins the journal at `path`, cuts off a row that a killed process left half written, and hands the
    /// id of each whole one to `seen`, in the order they were written.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] naming the line of a row that is whole and cannot be read; those of `seen`.
    pub fn open<R: Row>(path: &Path, mut seen: impl FnMut(&str) -> Result<()>) -> Result<Self> {
        let storage = || Error::storage(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(storage())?;
        let mut lines = Lines::of(path, file);
        while lines.advance()? {
            seen(lines.row::<R>()?.id()).map_err(|e| e.in_row(&lines.place()))?;
        }
        let whole = lines.end();
        let mut file = lines.into_file();
        let length = file.metadata().map_err(storage())?.len();
        if length > whole {
            tracing::warn!(
                journal = %path.display(),
                bytes = length - whole,
                "the last row was half written when its process was killed; it is cut off and its item done again"
            );
            file.set_len(whole).map_err(storage())?;
        }
        file.seek(SeekFrom::Start(whole)).map_err(storage())?;
        Ok(Self { path: path.to_owned(), file })
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

/// The rows of a journal, one at a time; one that is half written is passed over.
///
/// # Errors
/// [`Error::Storage`]; each row may be [`Error::Data`] naming file and line, after which none follows.
pub fn read<R: Row>(path: &Path) -> Result<impl Iterator<Item = Result<R>> + use<R>> {
    let mut lines = Lines::open(path)?;
    let mut over = false;
    Ok(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let row = lines.advance().and_then(|more| more.then(|| lines.row()).transpose()).transpose();
        over = !matches!(row, Some(Ok(_)));
        row
    }))
}

/// Writes one row to `out`, a file at `path`.
///
/// # Errors
/// [`Error::Storage`].
pub fn write_row(out: &mut impl Write, path: &Path, row: &impl Serialize) -> Result<()> {
    let written = serde_json::to_writer(&mut *out, row).map_err(std::io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).map_err(Error::storage(path))
}

/// Where an item's row lies in the shards: 16 bytes, also as an [`Option`].
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    shard: u32,
    length: NonZeroU32,
}

/// Merges `shards` into `path`, a row each of `items` in their order, copied as it was written: the same rows are the
/// same bytes whichever shard holds them. An item that two shards hold has the row of the later one.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] for an item without a row, and a row without its item.
pub fn seal<R: Row, I: Row>(shards: &[PathBuf], path: &Path, items: &Indexed<I>) -> Result<()> {
    let mut places: Vec<Option<Place>> = vec![None; items.len()];
    for (shard, file) in (0..).zip(shards) {
        let mut lines = Lines::open(file)?;
        while lines.advance()? {
            let index = items.index_of(lines.row::<R>()?.id()).map_err(|e| e.in_row(&lines.place()))?;
            let length = u32::try_from(lines.end() - lines.start()).ok().and_then(NonZeroU32::new);
            let length = length.ok_or_else(|| {
                Error::Data(format!("{}: is longer than 4 GiB; make the file again", lines.place()))
            })?;
            places[index] = Some(Place { start: lines.start(), shard, length });
        }
    }
    if let Some(missing) = places.iter().position(Option::is_none) {
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
        for place in places.iter().flatten() {
            let (shard, source) = &sources[place.shard as usize];
            row.resize(place.length.get() as usize, 0);
            source.read_exact_at(&mut row, place.start).map_err(Error::storage(shard))?;
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
        id: String,
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
    fn a_half_written_row_is_cut_off_and_the_rest_kept() {
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
    fn sealing_sorts_keeps_one_of_each_and_misses_nothing() {
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
    fn a_broken_row_is_named_and_ends_the_reading() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        std::fs::write(&path, "{\"id\":\"b\",\"n\":1}\n\n{oops}\n{\"id\":\"c\",\"n\":1}\n").expect("written");
        let error = Journal::open::<Line>(&path, |_| Ok(())).expect_err("line 3").to_string();
        assert!(error.contains("j.jsonl:3:"), "{error}");
        let rows: Vec<Result<Line>> = read(&path).expect("opens").collect();
        assert!(matches!(rows.as_slice(), [Ok(_), Err(Error::Data(_))]), "{rows:?}");
    }

    #[test]
    fn a_place_takes_sixteen_bytes() {
        assert_eq!(size_of::<Option<Place>>(), 16);
    }
}
