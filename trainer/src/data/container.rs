//! How the rows of a data file are arranged, as its first bytes show.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::files;
use crate::{Error, Result};

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Field names that a message lists.
const SHOWN: usize = 5;

/// The arrangement of a file's rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Container {
    /// One row on each line.
    Lines,
    Array(Start),
}

/// The place of the next byte in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    /// In bytes from 1.
    pub(super) column: usize,
}

impl Position {
    /// Passes over `byte`, and returns its own place.
    pub(super) const fn pass(&mut self, byte: u8) -> Self {
        let at = *self;
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        at
    }
}

/// Which bytes of JSON are in a string.
#[derive(Debug, Default)]
pub(super) struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Passes over `byte`, and returns whether it is part of a string: within one, or one of its quotes.
    pub(super) const fn pass(&mut self, byte: u8) -> bool {
        if !self.open {
            self.open = byte == b'"';
            return self.open;
        }
        self.open = self.escaped || byte != b'"';
        self.escaped = !self.escaped && byte == b'\\';
        true
    }
}

/// Where an array begins in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Of the opening bracket, in bytes from 0.
    pub(super) offset: u64,
    pub(super) at: Position,
    /// Whether an object is around the array.
    pub(super) wrapped: bool,
}

/// Finds out how the rows of `path` are arranged. A row is an object with at least one of `fields`.
///
/// # Errors
/// [`Error::Data`] where the file is an object that holds no rows.
pub(super) fn probe(path: &Path, fields: &[&str]) -> Result<Container> {
    let mut probe = Probe::new(fields);
    let mut reader = BufReader::new(files::open(path)?);
    let mut start = 0;
    let head = reader.fill_buf().map_err(Error::storage(path))?;
    if head.starts_with(BYTE_ORDER_MARK) {
        start = BYTE_ORDER_MARK.len();
    } else if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(Error::Data(format!("{}: is UTF-16, not UTF-8; save the file as UTF-8", path.display())));
    }
    reader.consume(start);
    probe.offset = start as u64;
    loop {
        let buffer = reader.fill_buf().map_err(Error::storage(path))?;
        if buffer.is_empty() {
            return probe.at_end().map_err(|reason| Error::Data(format!("{}:{reason}", path.display())));
        }
        let used = buffer.len();
        for &byte in buffer {
            if let Some(container) = probe.feed(byte) {
                return container.map_err(|reason| Error::Data(format!("{}:{reason}", path.display())));
            }
        }
        reader.consume(used);
    }
}

/// Reads the first value, as far as it is needed.
struct Probe<'f> {
    fields: &'f [&'f str],
    /// Of the next byte.
    offset: u64,
    position: Position,
    /// Where the object begins.
    opened: Option<Position>,
    depth: usize,
    quotes: Quotes,
    /// The last string directly in the object.
    text: Vec<u8>,
    /// Whether a value of the field `text` comes next.
    value: bool,
    names: Vec<String>,
    /// Whether the object is a row.
    row: bool,
    /// Whether the object has ended.
    closed: bool,
}

impl<'f> Probe<'f> {
    const fn new(fields: &'f [&'f str]) -> Self {
        Self {
            fields,
            offset: 0,
            position: Position { line: 1, column: 1 },
            opened: None,
            depth: 0,
            quotes: Quotes { open: false, escaped: false },
            text: Vec::new(),
            value: false,
            names: Vec::new(),
            row: false,
            closed: false,
        }
    }

    /// Takes the next byte. `Some` once the arrangement is known.
    fn feed(&mut self, byte: u8) -> Option<Result<Container, String>> {
        let (at, offset) = (self.position.pass(byte), self.offset);
        self.offset += 1;
        if !self.quotes.is_open() && byte.is_ascii_whitespace() {
            return None;
        }
        let Some(opened) = self.opened else {
            match byte {
                b'[' => return Some(Ok(Container::Array(Start { offset, at, wrapped: false }))),
                b'{' => {
                    self.opened = Some(at);
                    self.depth = 1;
                    return None;
                }
                _ => return Some(Ok(Container::Lines)),
            }
        };
        if self.closed {
            // More follows an object on one line.
            return Some(Ok(Container::Lines));
        }
        if self.quotes.is_open() {
            self.quotes.pass(byte);
            if self.depth == 1 && self.quotes.is_open() && self.text.len() < 64 {
                self.text.push(byte);
            }
            return None;
        }
        if std::mem::take(&mut self.value) {
            let name = String::from_utf8_lossy(&self.text).into_owned();
            self.row |= self.fields.contains(&name.as_str());
            if name == "data" && byte == b'[' && !self.row {
                return Some(Ok(Container::Array(Start { offset, at, wrapped: true })));
            }
            if self.names.len() < SHOWN {
                self.names.push(name);
            }
        }
        match byte {
            b'"' => {
                self.quotes.pass(byte);
                if self.depth == 1 {
                    self.text.clear();
                }
            }
            b':' if self.depth == 1 => self.value = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => {
                self.depth -= 1;
                self.closed = self.depth == 0;
                if self.closed && at.line > opened.line {
                    return Some(Err(self.no_rows(opened)));
                }
                // A row on its own line: what follows does not matter.
                if self.closed && self.row {
                    return Some(Ok(Container::Lines));
                }
            }
            _ => {}
        }
        None
    }

    fn at_end(&self) -> Result<Container, String> {
        match self.opened {
            Some(opened) if self.closed => Err(self.no_rows(opened)),
            // The first line is reported as a row that is cut.
            _ => Ok(Container::Lines),
        }
    }

    /// The object that begins at `line` and `column` is not a row on one line.
    fn no_rows(&self, Position { line, column }: Position) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("{name:?}")).collect();
        let what = match names.as_slice() {
            _ if self.row => "is one JSON object over several lines".to_owned(),
            [] => "is a JSON object without a field".to_owned(),
            [name] => format!("is a JSON object with the field {name}"),
            names => format!("is a JSON object with the fields {}", names.join(", ")),
        };
        format!(
            "{line}: the file {what}, at column {column}; give an array of items, one item a line, or {{\"data\": [...]}}"
        )
    }
}
