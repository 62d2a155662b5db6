//! JSON Lines, one record a line; a broken line is named by file, line and field.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::data::files;
use crate::{Error, Result};

/// The records of `path` with their line numbers, from 1. Blank lines are passed over; CRLF and a byte order mark are
/// accepted.
///
/// # Errors
/// [`Error::Storage`] where the file cannot be opened; each item may be [`Error::Data`], after which none follows.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<(usize, T)>> + use<T>> {
    let mut lines = Lines::open(path)?;
    let mut broken = false;
    Ok(std::iter::from_fn(move || {
        if broken {
            return None;
        }
        let item = lines
            .next_line()
            .transpose()?
            .and_then(|(line, text)| parse(&lines.path, line, &text).map(|value| (line, value)));
        broken = item.is_err();
        Some(item)
    }))
}

/// A value from one line's text.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let wrong = |field: &str, reason: &dyn std::fmt::Display| {
        // serde_path_to_error writes "." for the whole record and "?" where it lost the way.
        let field = field.trim_end_matches('?').trim_end_matches('.');
        let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
        Error::Data(format!("{}:{line}: {field}{reason}; mend or remove this record", path.display()))
    };
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| wrong(&error.path().to_string(), &without_position(error.inner())))?;
    deserializer.end().map_err(|error| wrong(".", &without_position(&error)))?;
    Ok(value)
}

/// serde_json's words without its own line, which counts within the record; the column stays.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) if error.column() > 0 => format!("{reason} at column {}", error.column()),
        _ => text,
    }
}

/// The lines of a text file, without their ends.
pub(crate) struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
    line: usize,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        Ok(Self { reader: BufReader::new(file), path: path.to_owned(), line: 0 })
    }

    /// The next line that is not blank, and its number from 1.
    pub(crate) fn next_line(&mut self) -> Result<Option<(usize, String)>> {
        loop {
            let mut bytes = Vec::new();
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(Error::storage(&self.path))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let text = String::from_utf8(bytes).map_err(|_| {
                Error::Data(format!(
                    "{}:{}: is not UTF-8; save the file as UTF-8",
                    self.path.display(),
                    self.line
                ))
            })?;
            let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { &text };
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some((self.line, text.to_owned())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Row {
        id: String,
        n: Vec<u32>,
    }

    fn rows(text: &[u8]) -> Vec<Result<(usize, Row), String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        let strip = format!("{}/", dir.path().display());
        read(&path).unwrap().map(|row| row.map_err(|error| error.to_string().replace(&strip, ""))).collect()
    }

    #[test]
    fn lines_are_counted_and_blank_ones_passed_over() {
        let rows = rows("\u{feff}{\"id\":\"a\",\"n\":[1]}\r\n\r\n  \n{\"id\":\"b\",\"n\":[]}".as_bytes());
        assert_eq!(rows[0], Ok((1, Row { id: "a".into(), n: vec![1] })));
        assert_eq!(rows[1], Ok((4, Row { id: "b".into(), n: vec![] })));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_broken_line_is_named_and_ends_the_reading() {
        let wrong =
            rows(b"{\"id\":\"a\",\"n\":[1]}\n{\"id\":\"b\",\"n\":[1,\"x\"]}\n{\"id\":\"c\",\"n\":[]}\n");
        assert_eq!(wrong.len(), 2);
        let message = wrong[1].as_ref().unwrap_err();
        assert!(
            message.starts_with("rows.jsonl:2: n[1]: invalid type: string \"x\", expected u32"),
            "{message}"
        );
        let cut = rows(b"{\"id\":\"a\",");
        let message = cut[0].as_ref().unwrap_err();
        assert!(message.starts_with("rows.jsonl:1: EOF while parsing"), "{message}");
        let twice = rows(b"{\"id\":\"a\",\"n\":[]} {}");
        assert!(twice[0].as_ref().unwrap_err().contains("trailing characters"));
        let latin = rows(b"{\"id\":\"\xe9\",\"n\":[]}");
        assert!(latin[0].as_ref().unwrap_err().starts_with("rows.jsonl:1: is not UTF-8"));
    }
}
