//! Tab-separated files as `pandas.read_csv(path, sep="\t")` reads them, one row in memory at a time.
//!
//! The csv crate would not do: it accepts a quote that is never closed, which is how a file that was cut short shows
//! itself, has no limit to the length of a row, and reads lines of spaces, which pandas skips.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::row::{ImageCell, MAX_ROW_BYTES, Row, cannot_read, cut_short};
use crate::error::{Error, Result};
use crate::python::is_missing;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An image cell of at most this many characters is the index of the row whose image is meant (VLMEvalKit's
/// `image_base.py`).
const MAX_REFERENCE: usize = 64;

/// A file whose first row names the columns.
pub(crate) struct TsvFile {
    path: PathBuf,
    name: String,
    tokens: Tokenizer,
    header: Vec<String>,
    image: Option<usize>,
    /// The number of rows read.
    row: u64,
    done: bool,
}

impl TsvFile {
    /// `name` is for places; `image` is the column with images.
    pub(super) fn open(path: &Path, name: String, image: Option<&str>) -> Result<Self> {
        let mut tokens = Tokenizer::open(path)?;
        if !tokens.next_row(path)? {
            return Err(Error::File {
                file: path.into(),
                message: "the file is empty; download it again".into(),
            });
        }
        let header: Vec<String> = (0..tokens.cells.len())
            .map(|column| match String::from_utf8_lossy(tokens.cell(column)) {
                unnamed if unnamed.is_empty() => format!("Unnamed: {column}"),
                named => named.into_owned(),
            })
            .collect();
        let image = image.and_then(|image| header.iter().position(|name| name == image));
        Ok(Self { path: path.into(), name, tokens, header, image, row: 0, done: false })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.header
    }

    /// Goes on with the row that was number `row` (from 1) and began at `offset`.
    pub(super) fn seek(&mut self, row: u64, offset: u64) -> Result<()> {
        self.tokens.seek(offset).map_err(cannot_read(&self.path))?;
        self.row = row.saturating_sub(1);
        self.done = false;
        Ok(())
    }

    pub(super) fn next(&mut self) -> Option<Result<Row>> {
        if self.done {
            return None;
        }
        match self.tokens.next_row(&self.path) {
            Ok(true) => {
                self.row += 1;
                Some(self.row())
            }
            Ok(false) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }

    fn row(&self) -> Result<Row> {
        let place = format!("{}, row {}", self.name, self.row);
        let error = |message| Err(Error::Row { place: place.clone(), message });
        let (cells, columns) = (self.tokens.cells.len(), self.header.len());
        if cells != columns {
            return error(format!(
                "the row has {cells} cells, the header has {columns}; the file was cut short or edited: download it again"
            ));
        }
        if self.tokens.at_end_without_newline && self.image == Some(columns - 1) {
            return error("the file ends within the image of this row: download it again".into());
        }
        let mut fields = Map::new();
        let mut image = ImageCell::None;
        for (column, name) in self.header.iter().enumerate() {
            let Ok(text) = std::str::from_utf8(self.tokens.cell(column)) else {
                return error(format!("column {name:?} is not UTF-8; download the file again"));
            };
            let missing = is_missing(text);
            if self.image == Some(column) {
                image = match text {
                    _ if missing => ImageCell::None,
                    reference if reference.chars().count() <= MAX_REFERENCE => {
                        ImageCell::Reference(reference.to_owned())
                    }
                    base64 => ImageCell::Base64(base64.to_owned()),
                };
            } else if !fields.contains_key(name) {
                let value = if missing { Value::Null } else { Value::String(text.to_owned()) };
                fields.insert(name.clone(), value);
            }
        }
        Ok(Row { number: self.row, offset: self.tokens.start, place, fields, image })
    }
}

/// What the bytes before this one were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the row but spaces.
    Spaces,
    CellStart,
    Unquoted,
    Quoted,
    /// A quote in a quoted cell: its end, or half of a doubled quote.
    QuoteInQuoted,
}

/// Splits a file into rows of cells by the states of pandas' C parser (`pandas/_libs/src/parser/tokenizer.c`).
struct Tokenizer {
    reader: BufReader<File>,
    /// Of the next byte.
    offset: u64,
    /// Where the row began.
    start: u64,
    /// Whether the last byte was a carriage return that ended a row, so that a newline belongs to it.
    after_return: bool,
    at_end_without_newline: bool,
    /// The row's cells, one after the other.
    bytes: Vec<u8>,
    /// Where each cell ends in `bytes`.
    cells: Vec<usize>,
}

impl Tokenizer {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(cannot_read(path))?;
        let mut mark = Vec::new();
        file.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut mark).map_err(cannot_read(path))?;
        let mut tokens = Self {
            reader: BufReader::with_capacity(256 << 10, file),
            offset: 0,
            start: 0,
            after_return: false,
            at_end_without_newline: false,
            bytes: Vec::new(),
            cells: Vec::new(),
        };
        let start = if mark == BYTE_ORDER_MARK { BYTE_ORDER_MARK.len() as u64 } else { 0 };
        tokens.seek(start).map_err(cannot_read(path))?;
        Ok(tokens)
    }

    fn seek(&mut self, offset: u64) -> std::io::Result<()> {
        // Rows that are near are still in the buffer.
        match i64::try_from(i128::from(offset) - i128::from(self.offset)) {
            Ok(distance) if self.offset > 0 => self.reader.seek_relative(distance)?,
            _ => drop(self.reader.seek(SeekFrom::Start(offset))?),
        }
        self.offset = offset;
        self.after_return = false;
        Ok(())
    }

    fn cell(&self, column: usize) -> &[u8] {
        let start = column.checked_sub(1).map_or(0, |before| self.cells[before]);
        &self.bytes[start..self.cells[column]]
    }

    /// Reads a row into `cells`; false at the end of the file. `path` is for errors.
    fn next_row(&mut self, path: &Path) -> Result<bool> {
        self.bytes.clear();
        self.cells.clear();
        self.start = self.offset;
        let mut state = State::Spaces;
        loop {
            let buffer = self.reader.fill_buf().map_err(cannot_read(path))?;
            if buffer.is_empty() {
                return self.end_of_file(state, path);
            }
            let skipped = usize::from(std::mem::take(&mut self.after_return) && buffer[0] == b'\n');
            if self.bytes.is_empty() && self.cells.is_empty() && state == State::Spaces {
                self.start = self.offset + skipped as u64;
            }
            let (used, ended) = step(&buffer[skipped..], &mut state, &mut self.bytes, &mut self.cells);
            let last = used.checked_sub(1).and_then(|last| buffer.get(skipped + last)).copied();
            self.reader.consume(skipped + used);
            self.offset += (skipped + used) as u64;
            if ended {
                self.after_return = last == Some(b'\r');
                if !self.cells.is_empty() {
                    return Ok(true);
                }
            }
            if self.bytes.len() + self.cells.len() > MAX_ROW_BYTES {
                return Err(too_long(path, self.start));
            }
        }
    }

    fn end_of_file(&mut self, state: State, path: &Path) -> Result<bool> {
        match state {
            State::Spaces => Ok(false),
            State::Quoted => Err(cut_short(path, "the last quoted cell is not closed")),
            State::CellStart | State::Unquoted | State::QuoteInQuoted => {
                self.cells.push(self.bytes.len());
                self.at_end_without_newline = true;
                Ok(true)
            }
        }
    }
}

fn too_long(path: &Path, start: u64) -> Error {
    Error::File {
        file: path.into(),
        message: format!(
            "the row at byte {start} is longer than {} MiB, probably for a quote that is not closed; download the file again",
            MAX_ROW_BYTES >> 20
        ),
    }
}

/// Reads bytes up to the end of a row or of `buffer`. Returns how many, and whether the row ended; a blank line ends
/// without a cell.
fn step(buffer: &[u8], state: &mut State, bytes: &mut Vec<u8>, cells: &mut Vec<usize>) -> (usize, bool) {
    let mut at = 0;
    while let Some(&byte) = buffer.get(at) {
        match *state {
            State::Quoted => {
                let rest = &buffer[at..];
                let run = rest.iter().position(|&byte| byte == b'"').unwrap_or(rest.len());
                bytes.extend_from_slice(&rest[..run]);
                at += run;
                if run < rest.len() {
                    *state = State::QuoteInQuoted;
                    at += 1;
                }
                continue;
            }
            State::Unquoted => {
                let rest = &buffer[at..];
                let run =
                    rest.iter().position(|&byte| matches!(byte, b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
                if run > 0 {
                    bytes.extend_from_slice(&rest[..run]);
                    at += run;
                    continue;
                }
            }
            State::Spaces | State::CellStart | State::QuoteInQuoted => {}
        }
        at += 1;
        match byte {
            b'\n' | b'\r' => {
                if *state == State::Spaces {
                    bytes.clear();
                } else {
                    cells.push(bytes.len());
                    *state = State::Spaces;
                }
                return (at, true);
            }
            b'\t' => {
                cells.push(bytes.len());
                *state = State::CellStart;
            }
            b'"' if *state == State::QuoteInQuoted => {
                bytes.push(byte);
                *state = State::Quoted;
            }
            b'"' if *state == State::CellStart || bytes.is_empty() => *state = State::Quoted,
            b' ' if *state == State::Spaces => bytes.push(byte),
            _ => {
                bytes.push(byte);
                *state = State::Unquoted;
            }
        }
    }
    (at, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    // for text in CASES:  # and random texts over "ab \"\t\n\ré"
    //     pandas.read_csv(io.BytesIO(text.encode()), sep="\t", header=None, names=range(24), index_col=False, dtype=str,
    //                     keep_default_na=False, na_values=[])
    // of pandas 3.1.1, which does not tell missing cells at the end of a row from empty ones; null is a ParserError.
    // Left out: a blank line ended by a lone carriage return, and then a tab, which pandas drops.
    const VECTORS: &str = include_str!("../../../tests/vectors/tsv.json");

    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.tsv");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn cells(text: &str, capacity: usize) -> Result<Vec<Vec<String>>> {
        let (_folder, path) = file(text.as_bytes());
        let mut tokens = Tokenizer::open(&path)?;
        let offset = tokens.offset;
        tokens.reader = BufReader::with_capacity(capacity, tokens.reader.into_inner());
        tokens.reader.seek(SeekFrom::Start(offset)).unwrap();
        let mut rows = Vec::new();
        let mut starts = Vec::new();
        while tokens.next_row(&path)? {
            starts.push(tokens.start);
            rows.push(row(&tokens));
        }
        for (start, expected) in starts.iter().zip(&rows).rev() {
            tokens.seek(*start).unwrap();
            assert!(tokens.next_row(&path)?);
            assert_eq!(row(&tokens), *expected, "{text:?} at {start}");
        }
        Ok(rows)
    }

    fn row(tokens: &Tokenizer) -> Vec<String> {
        (0..tokens.cells.len())
            .map(|column| String::from_utf8_lossy(tokens.cell(column)).into_owned())
            .collect()
    }

    fn rows(text: &str) -> Vec<Result<Row>> {
        let (_folder, path) = file(text.as_bytes());
        let mut file = TsvFile::open(&path, "rows.tsv".to_owned(), Some("image")).unwrap();
        std::iter::from_fn(|| file.next()).collect()
    }

    fn message(row: &Result<Row>) -> String {
        row.as_ref().unwrap_err().to_string()
    }

    #[test]
    fn cells_are_text_null_or_images() {
        let base64 = "A".repeat(65);
        let reference = "é".repeat(64);
        let rows = rows(&format!(
            "index\tindex\t\timage\r\n1\t2\tNA\t{base64}\n01\t\t\"None\"\t{reference}\n\"\"\t\tnone\tnan\n"
        ));
        let row = |number: usize| rows[number].as_ref().unwrap();
        assert_eq!(row(0).place, "rows.tsv, row 1");
        assert_eq!(row(0).fields, serde_json::from_str(r#"{"index": "1", "Unnamed: 2": null}"#).unwrap());
        assert_eq!(row(0).image, ImageCell::Base64(base64));
        assert_eq!(row(1).fields, serde_json::from_str(r#"{"index": "01", "Unnamed: 2": null}"#).unwrap());
        assert_eq!(row(1).image, ImageCell::Reference(reference));
        assert_eq!(row(2).fields, serde_json::from_str(r#"{"index": null, "Unnamed: 2": "none"}"#).unwrap());
        assert_eq!(row(2).image, ImageCell::None);
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn a_bad_row_does_not_hide_the_next() {
        let rows = rows("index\tquestion\n1\n1\t2\t3\n1\t2\n");
        assert_eq!(
            message(&rows[0]),
            "rows.tsv, row 1: the row has 1 cells, the header has 2; the file was cut short or edited: download it again"
        );
        assert!(message(&rows[1]).starts_with("rows.tsv, row 2: the row has 3 cells"));
        assert_eq!(rows[2].as_ref().unwrap().number, 3);

        let (_folder, path) = file(b"index\n\xff\n7\n");
        let mut file = TsvFile::open(&path, "rows.tsv".to_owned(), None).unwrap();
        let bad = file.next().unwrap();
        assert_eq!(message(&bad), "rows.tsv, row 1: column \"index\" is not UTF-8; download the file again");
        assert_eq!(file.next().unwrap().unwrap().fields["index"], "7");
    }

    #[test]
    fn a_file_that_was_cut_short_is_named() {
        let cut = rows("index\timage\n1\tAAAA");
        assert_eq!(
            message(&cut[0]),
            "rows.tsv, row 1: the file ends within the image of this row: download it again"
        );
        let cut = rows("image\tindex\n1\t2\n\"AAA\n");
        assert_eq!(cut.len(), 2);
        assert!(
            message(&cut[1]).contains("rows.tsv: the file was cut short or is damaged (the last quoted cell")
        );
        assert!(rows("image\tindex\nAAAA\t1")[0].is_ok(), "a newline at the end may be missing");
        let (_folder, path) = file(b"\n\n");
        let empty = TsvFile::open(&path, String::new(), None).err().unwrap().to_string();
        assert!(empty.ends_with("rows.tsv: the file is empty; download it again"), "{empty}");
    }

    #[test]
    fn rows_equal_those_of_pandas() {
        let cases: Vec<Map<String, Value>> = serde_json::from_str(VECTORS).unwrap();
        assert!(cases.len() >= 250);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let expected: Option<Vec<Vec<String>>> = serde_json::from_value(case["rows"].clone()).unwrap();
            for capacity in [1, 3, 1000] {
                let rows = cells(text, capacity).ok().map(|mut rows| {
                    rows.iter_mut().for_each(|row| while row.pop_if(|cell| cell.is_empty()).is_some() {});
                    rows
                });
                assert_eq!(rows, expected, "{text:?}");
            }
        }
    }
}
