//! Why a row of a data file cannot be used, with line, column and field.

use std::path::Path;

use serde::Deserialize;

use super::rows::Row;
use crate::Error;

/// Why a row cannot be used, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// The line, from 1: for JSON that cannot be parsed where parsing ended, otherwise where the row begins.
    pub line: usize,
    pub reason: String,
}

impl RowProblem {
    pub(crate) fn new(row: &Row<'_>, reason: impl Into<String>) -> Self {
        Self { line: row.line, reason: reason.into() }
    }

    /// The message for the file at `path`.
    #[must_use]
    pub fn in_file(&self, path: &Path) -> String {
        format!("{}:{}: {}", path.display(), self.line, self.reason)
    }

    #[must_use]
    pub fn into_error(self, path: &Path) -> Error {
        Error::Data(self.in_file(path))
    }
}

/// The row as text.
pub(crate) fn text<'a>(row: &Row<'a>) -> Result<&'a str, RowProblem> {
    std::str::from_utf8(row.bytes).map_err(|error| {
        let (line, column) = place(row, error.valid_up_to());
        RowProblem { line, reason: format!("is not UTF-8 at column {column}; save the file as UTF-8") }
    })
}

/// Deserializes a row.
pub(crate) fn parse<'a, T: Deserialize<'a>>(row: &Row<'a>) -> Result<T, RowProblem> {
    let text = text(row)?;
    parse_text(row, text)
}

/// Deserializes `text`, which stands for the row.
pub(crate) fn parse_text<'a, T: Deserialize<'a>>(row: &Row<'_>, text: &'a str) -> Result<T, RowProblem> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| problem(row, text, &error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| problem(row, text, ".", &error))?;
    Ok(value)
}

fn problem(row: &Row<'_>, text: &str, field: &str, error: &serde_json::Error) -> RowProblem {
    if error.is_syntax()
        && let Some(found) = not_json(text)
    {
        let (line, column) = place(row, found.offset);
        return RowProblem { line, reason: format!("{} at column {column}; {}", found.what, found.fix) };
    }
    // serde_path_to_error writes "." for the whole record and "?" for an unknown position.
    let field = field.trim_end_matches('?').trim_end_matches('.');
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    // What is missing has no position.
    if error.line() == 0 || reason.starts_with("missing field") {
        return RowProblem::new(row, format!("{field}{reason}; fix or remove this record"));
    }
    let line = row.line + error.line() - 1;
    let column = if error.line() == 1 { row.column + error.column().max(1) - 1 } else { error.column() };
    let reason = format!("{field}{reason} at column {column}; fix or remove this record");
    RowProblem { line, reason }
}

/// The line and column of the byte at `offset` in the row.
fn place(row: &Row<'_>, offset: usize) -> (usize, usize) {
    let before = &row.bytes[..offset.min(row.bytes.len())];
    match before.iter().rposition(|byte| *byte == b'\n') {
        None => (row.line, row.column + before.len()),
        Some(at) => {
            let breaks = before.iter().filter(|byte| **byte == b'\n').count();
            (row.line + breaks, before.len() - at)
        }
    }
}

/// Something that other programs write and that is not JSON.
struct NotJson {
    offset: usize,
    what: String,
    fix: &'static str,
}

/// The first word or lone surrogate in `text` that is not JSON.
fn not_json(text: &str) -> Option<NotJson> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, key: None };
    loop {
        match scanner.next()? {
            Token::Surrogate { offset, escape } => {
                let field = scanner.field();
                return Some(NotJson {
                    offset,
                    what: format!("{field}{escape} is half of a surrogate pair, which is no character,"),
                    fix: "remove it or write the whole character",
                });
            }
            Token::Word { offset, word } => {
                let fix = match word {
                    "true" | "false" | "null" => continue,
                    "NaN" | "Infinity" | "-Infinity" | "None" | "undefined" => {
                        "write null or leave the field out"
                    }
                    "True" | "False" => "write true or false",
                    _ => continue,
                };
                return Some(NotJson {
                    offset,
                    what: format!("{}{word} is not JSON,", scanner.field()),
                    fix,
                });
            }
        }
    }
}

/// `text` with `null` for each NaN that is the value of the field `name`; `None` if there is none.
pub(crate) fn nan_to_null(text: &str, name: &str) -> Option<String> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, key: None };
    let mut replaced = String::new();
    let mut copied = 0;
    while let Some(token) = scanner.next() {
        if let Token::Word { offset, word: "NaN" } = token
            && scanner.key == Some(name)
        {
            replaced.push_str(&text[copied..offset]);
            replaced.push_str("null");
            copied = scanner.at;
        }
    }
    if copied == 0 {
        return None;
    }
    replaced.push_str(&text[copied..]);
    Some(replaced)
}

enum Token<'t> {
    /// A bare word or number.
    Word { offset: usize, word: &'t str },
    /// An escape of one half of a surrogate pair, without the other.
    Surrogate { offset: usize, escape: &'t str },
}

/// Finds what may not be JSON, in text that cannot be parsed.
struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
    /// The last string before a colon.
    key: Option<&'t str>,
}

impl<'t> Scanner<'t> {
    /// The last field, for a message.
    fn field(&self) -> String {
        self.key.map_or_else(String::new, |key| format!("{key}: "))
    }

    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if byte == b'"' {
                if let Some(surrogate) = self.string() {
                    return Some(surrogate);
                }
            } else if byte.is_ascii_alphanumeric() || byte == b'-' {
                let start = self.at;
                let end = self.bytes[start..].iter().position(|byte| {
                    !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_'))
                });
                self.at = end.map_or(self.bytes.len(), |length| start + length);
                let word = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
                return Some(Token::Word { offset: start, word });
            } else {
                self.at += 1;
            }
        }
    }

    /// Passes over a string. `Some` at a lone surrogate, after which the scan ends.
    fn string(&mut self) -> Option<Token<'t>> {
        let start = self.at + 1;
        self.at = start;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => break,
                b'\\' => {
                    let here = self.at;
                    match (self.unit(here), self.unit(here + 6)) {
                        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => self.at += 12,
                        (Some(0xd800..=0xdfff), _) => {
                            let escape = std::str::from_utf8(&self.bytes[here..here + 6]).unwrap_or_default();
                            return Some(Token::Surrogate { offset: here, escape });
                        }
                        _ => self.at += 2,
                    }
                }
                _ => self.at += 1,
            }
        }
        let end = self.at.min(self.bytes.len());
        self.at += 1;
        let after = self.bytes.get(self.at..)?;
        if after.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':') {
            self.key = std::str::from_utf8(&self.bytes[start.min(end)..end]).ok();
        }
        None
    }

    /// The UTF-16 unit of the escape at `at`.
    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

/// An id is a string or a whole number.
pub(crate) fn deserialize_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an id must be a string or a whole number")]
    enum Id {
        Text(String),
        Number(i64),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn problem_of(text: &str) -> (usize, String) {
        let row = Row { line: 7, column: 3, bytes: text.as_bytes() };
        let problem = parse::<Value>(&row).unwrap_err();
        (problem.line, problem.reason)
    }

    #[test]
    fn what_is_not_json_is_named_with_line_and_column() {
        for (text, line, expected) in [
            (
                r#"{"image": NaN}"#,
                7,
                "image: NaN is not JSON, at column 13; write null or leave the field out",
            ),
            ("{\n \"a\": -Infinity}", 8, "a: -Infinity is not JSON, at column 7; write null"),
            ("{\"a\": None}", 7, "a: None is not JSON, at column 9; write null"),
            (
                r#"{"NaN": "NaN", "v": "x\ud83d y"}"#,
                7,
                "v: \\ud83d is half of a surrogate pair, which is no character, at column 25; remove it",
            ),
            (r#"{"v": "\ude00"}"#, 7, "v: \\ude00 is half of a surrogate pair"),
            ("{\"a\": 1", 7, "EOF while parsing an object at column 9; fix or remove this record"),
            ("{\"a\": \n nul}", 8, "a: expected ident at column"),
        ] {
            let (found, reason) = problem_of(text);
            assert!(found == line && reason.starts_with(expected), "{text}: {found}: {reason}");
        }
        assert!(not_json(r#"{"a": "\ud83d\ude00 \\ud83d NaN", "b": [true, -1e5, null]}"#).is_none());
        let latin = Row { line: 7, column: 3, bytes: b"{\"a\":\n\"\xe9\"}" };
        let problem = parse::<Value>(&latin).unwrap_err();
        assert_eq!(
            (problem.line, problem.reason.as_str()),
            (8, "is not UTF-8 at column 2; save the file as UTF-8")
        );
    }

    #[test]
    fn nan_is_replaced_in_one_field_only() {
        let text = r#"{"image": NaN, "a": NaN, "b": "\"image\": NaN"}"#;
        let replaced = nan_to_null(text, "image").unwrap();
        assert_eq!(replaced, r#"{"image": null, "a": NaN, "b": "\"image\": NaN"}"#);
        assert_eq!(nan_to_null(r#"{"image": "NaN"}"#, "image"), None);
    }
}
