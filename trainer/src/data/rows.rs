//! The rows of a data file, one in memory at a time: a JSON array, JSON Lines, or an object whose `data` is an array.
//!
//! Rows are split by their brackets alone, so a row that is not JSON does not hide the rows after it.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use super::container::{BYTE_ORDER_MARK, Container, Position, Quotes, Start, probe};
use super::files;
use crate::{Error, Result};

/// A longer row means that a quote or bracket is not closed. It bounds memory.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;

/// One row as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// The column that it begins at, in bytes from 1.
    pub column: usize,
    pub bytes: &'a [u8],
}

/// Calls `visit` with each row of `path`, in the file's order. `fields` are names of which a row has at least one: they
/// tell a row from an object that wraps the rows.
///
/// # Errors
/// [`Error::Data`] where rows cannot be told apart; [`Error::Storage`]; the first error of `visit`.
pub fn for_each(path: &Path, fields: &[&str], visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
    match probe(path, fields)? {
        Container::Lines => lines(path, visit),
        Container::Array(start) => ArraySplitter::open(path, start)?.split(visit),
    }
}

/// The lines of a text file that are not blank, without white space around them and without a byte order mark.
pub(super) fn lines(path: &Path, mut visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(files::open(path)?);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limit = MAX_ROW_BYTES as u64;
        let read = std::io::Read::take(&mut reader, limit)
            .read_until(b'\n', &mut bytes)
            .map_err(Error::storage(path))?;
        if read == 0 {
            break;
        }
        if read == MAX_ROW_BYTES {
            return Err(too_long(path, line));
        }
        let mark = if line == 1 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let start = mark + bytes[mark..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let row = bytes[start..].trim_ascii_end();
        if !row.is_empty() {
            visit(Row { line, column: start - mark + 1, bytes: row })?;
        }
    }
    Ok(())
}

fn too_long(path: &Path, line: usize) -> Error {
    Error::Data(format!(
        "{}:{line}: a row begins here that is longer than {} MiB; close its quotes and brackets, or remove it",
        path.display(),
        MAX_ROW_BYTES >> 20
    ))
}

/// Splits an array at the commas between its items.
struct ArraySplitter<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    position: Position,
    wrapped: bool,
    item: Item,
}

/// The item that is being read.
#[derive(Default)]
struct Item {
    bytes: Vec<u8>,
    line: usize,
    column: usize,
    depth: usize,
    quotes: Quotes,
}

/// What a byte means for the item that is being read.
enum Step {
    Within,
    /// A comma after the item, or the bracket after the last one.
    End {
        last: bool,
    },
}

impl Item {
    fn step(&mut self, byte: u8) -> Step {
        if self.quotes.pass(byte) {
            return Step::Within;
        }
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' if self.depth == 0 => return Step::End { last: true },
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b',' if self.depth == 0 => return Step::End { last: false },
            _ => {}
        }
        Step::Within
    }
}

impl<'a> ArraySplitter<'a> {
    fn open(path: &'a Path, start: Start) -> Result<Self> {
        let mut file = files::open(path)?;
        file.seek(SeekFrom::Start(start.offset + 1)).map_err(Error::storage(path))?;
        Ok(Self {
            path,
            reader: BufReader::with_capacity(64 << 10, file),
            position: Position { column: start.at.column + 1, ..start.at },
            wrapped: start.wrapped,
            item: Item::default(),
        })
    }

    fn split(mut self, mut visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        let mut count = 0_u64;
        loop {
            let buffer = self.reader.fill_buf().map_err(Error::storage(self.path))?;
            if buffer.is_empty() {
                return Err(self.unexpected_end());
            }
            let mut used = 0;
            let mut ended = None;
            for &byte in buffer {
                used += 1;
                let at = self.position.pass(byte);
                let item = &mut self.item;
                if item.bytes.is_empty() && byte.is_ascii_whitespace() {
                    continue;
                }
                match item.step(byte) {
                    Step::Within => {
                        if item.bytes.is_empty() {
                            (item.line, item.column) = (at.line, at.column);
                        }
                        item.bytes.push(byte);
                    }
                    Step::End { last } => {
                        ended = Some((last, at));
                        break;
                    }
                }
            }
            self.reader.consume(used);
            if self.item.bytes.len() > MAX_ROW_BYTES {
                return Err(too_long(self.path, self.item.line));
            }
            let Some((last, at)) = ended else { continue };
            if self.item.bytes.is_empty() && (!last || count > 0) {
                let what = if last { "a trailing comma" } else { "nothing between two commas" };
                return Err(self.error(at, &format!("{what} at column {}; fix the JSON there", at.column)));
            }
            if !self.item.bytes.is_empty() {
                let (line, column) = (self.item.line, self.item.column);
                visit(Row { line, column, bytes: self.item.bytes.trim_ascii_end() })?;
                count += 1;
                let mut bytes = std::mem::take(&mut self.item).bytes;
                bytes.clear();
                self.item.bytes = bytes;
            }
            if last {
                return self.finish();
            }
        }
    }

    /// Reads what follows the array: white space, and where an object is around it, the rest of the object.
    fn finish(mut self) -> Result<()> {
        let mut rest = Item { depth: usize::from(self.wrapped), ..Item::default() };
        loop {
            let buffer = self.reader.fill_buf().map_err(Error::storage(self.path))?;
            if buffer.is_empty() {
                return if rest.depth == 0 { Ok(()) } else { Err(self.unexpected_end()) };
            }
            let used = buffer.len();
            for &byte in buffer {
                let at = self.position.pass(byte);
                if rest.depth == 0 && !byte.is_ascii_whitespace() {
                    let reason = format!("trailing characters at column {}; fix the JSON there", at.column);
                    return Err(self.error(at, &reason));
                }
                rest.step(byte);
            }
            self.reader.consume(used);
        }
    }

    fn unexpected_end(&self) -> Error {
        let place = match self.item.line {
            0 => "the array".to_owned(),
            line => format!("the item that begins on line {line}, column {}", self.item.column),
        };
        let at = self.position;
        self.error(
            at,
            &format!(
                "EOF while parsing {place}, at column {}; the file was cut, or a quote or bracket is not closed: fix the JSON there",
                at.column
            ),
        )
    }

    fn error(&self, Position { line, .. }: Position, reason: &str) -> Error {
        Error::Data(format!("{}:{line}: {reason}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<(usize, usize, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.json");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let read = for_each(&path, &["id", "a"], |row| {
            found.push((row.line, row.column, String::from_utf8_lossy(row.bytes).into_owned()));
            Ok(())
        });
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(found)
    }

    #[test]
    fn every_container_gives_the_same_rows_with_their_places() {
        let row = |line, column, text: &str| (line, column, text.to_owned());
        let expected = |places: [(usize, usize); 3]| {
            let texts = ["{\"a\":\"]\\\"}\"}", "{\"a\":[1,{}]}", "{\"id\":\"é\"}"];
            places
                .into_iter()
                .zip(texts)
                .map(|((line, column), text)| row(line, column, text))
                .collect::<Vec<_>>()
        };
        let rows_of = |text: &str| rows(text).unwrap();
        let [a, b, c] = ["{\"a\":\"]\\\"}\"}", "{\"a\":[1,{}]}", "{\"id\":\"é\"}"];
        assert_eq!(
            rows_of(&format!("\u{feff}\n[{a}, {b}\n ,\n{c}\n]\n")),
            expected([(2, 2), (2, 16), (4, 1)])
        );
        assert_eq!(rows_of(&format!("{a}\r\n\n  {b}\n{c}")), expected([(1, 1), (3, 3), (4, 1)]));
        let wrapped =
            format!("{{\"version\": \"[1]\", \"data\":[{a},\n{b},{c}], \"more\": {{\"x\": \"}}\"}}}}\n");
        let places = rows_of(&wrapped);
        assert_eq!(places.iter().map(|(_, _, text)| text.as_str()).collect::<Vec<_>>(), [a, b, c]);
        assert_eq!(rows_of("[1\n\n,\n-2.5 , 3]"), [row(1, 2, "1"), row(4, 1, "-2.5"), row(4, 8, "3")]);
        assert!(rows_of("[]").is_empty() && rows_of("").is_empty());
    }

    #[test]
    fn a_row_that_is_not_json_does_not_hide_the_next() {
        let found = rows("[{\"a\": NaN}, oops, {\"a\": 1}]").unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], (1, 20, "{\"a\": 1}".into()));
    }

    #[test]
    fn a_file_whose_rows_cannot_be_told_apart_is_named_with_line_and_column() {
        for (text, expected) in [
            ("[1,\n2", "rows.json:2: EOF while parsing the item that begins on line 2, column 1"),
            ("[1]\n\n x", "rows.json:3: trailing characters at column 2"),
            ("[1,\n]", "rows.json:2: a trailing comma at column 1"),
            ("[1,,2]", "rows.json:1: nothing between two commas at column 4"),
            ("{\"data\": [1]", "rows.json:1: EOF while parsing the array"),
            (
                "{\"rows\": [1]}",
                "rows.json:1: the file is a JSON object with the field \"rows\", at column 1",
            ),
            ("{\n\"a\": 1}", "rows.json:1: the file is one JSON object over several lines, at column 1"),
        ] {
            let message = rows(text).unwrap_err();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
