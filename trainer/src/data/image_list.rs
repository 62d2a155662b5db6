//! Lists of images: a text file with one path a line, or JSON in any container of [`super::rows`].

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::container::BYTE_ORDER_MARK;
use super::files;
use super::row_problem::{self, RowProblem};
use super::rows::{self, Row};
use crate::{Error, Result};

/// The fields that tell an entry from an object around all entries.
const FIELDS: &[&str] = &["image", "id"];
/// Enough bytes to tell a list of paths from JSON.
const PROBED_BYTES: u64 = 512;

/// How a list file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// One path a line. Lines that start with `#` are comments.
    Text,
    Json,
}

/// An entry of a JSON list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "an entry must be a path, or an object with the field image")]
enum Entry {
    Path(String),
    Object { image: String },
}

impl ListFormat {
    /// How the list file at `path` is written. A path may begin with a bracket, so the next character counts too.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no file; [`Error::Storage`].
    pub fn of(path: &Path) -> Result<Self> {
        let mut head = Vec::new();
        files::open(path)?.take(PROBED_BYTES).read_to_end(&mut head).map_err(Error::storage(path))?;
        let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head);
        let mut bytes = head.iter().filter(|byte| !byte.is_ascii_whitespace());
        Ok(match (bytes.next(), bytes.next()) {
            (Some(b'['), Some(b'"' | b'{' | b']') | None) | (Some(b'{'), Some(b'"')) | (Some(b'"'), _) => {
                Self::Json
            }
            _ => Self::Text,
        })
    }

    /// Calls `visit` with each entry of the list file at `path`, in its order.
    ///
    /// # Errors
    /// As [`rows::for_each`].
    pub fn for_each(self, path: &Path, mut visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        match self {
            Self::Text => {
                rows::lines(path, |row| if row.bytes.starts_with(b"#") { Ok(()) } else { visit(row) })
            }
            Self::Json => rows::for_each(path, FIELDS, visit),
        }
    }

    /// The path that an entry names.
    ///
    /// # Errors
    /// [`RowProblem`].
    pub fn parse(self, row: &Row<'_>) -> Result<String, RowProblem> {
        match self {
            Self::Text => row_problem::text(row).map(str::to_owned),
            Self::Json => Ok(match row_problem::parse::<Entry>(row)? {
                Entry::Path(image) | Entry::Object { image } => image,
            }),
        }
    }
}

/// The path as another entry may also write it: `./a//b.png` is `a/b.png`.
#[must_use]
pub fn plain(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Result<Vec<(usize, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let format = ListFormat::of(&path).unwrap();
        let read = format.for_each(&path, |row| {
            found.push((row.line, format.parse(&row).map_err(|problem| problem.into_error(&path))?));
            Ok(())
        });
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(found)
    }

    #[test]
    fn every_form_of_a_list_is_read_in_its_order() {
        let entry = |line, path: &str| (line, path.to_owned());
        assert_eq!(
            listed("\u{feff}b.png\r\n# comment\r\n\r\n  a.png  \n").unwrap(),
            [entry(1, "b.png"), entry(4, "a.png")]
        );
        assert_eq!(listed("[scan] 1.png\n{x}.png").unwrap(), [entry(1, "[scan] 1.png"), entry(2, "{x}.png")]);
        for text in [
            "[\"b.png\", \"a.png\"]",
            "[{\"image\": \"b.png\"}, {\"image\": \"a.png\"}]",
            "{\"data\": [\"b.png\", \"a.png\"]}",
        ] {
            assert_eq!(listed(text).unwrap(), [entry(1, "b.png"), entry(1, "a.png")], "{text}");
        }
        for text in ["\"b.png\"\n\"a.png\"", "{\"image\": \"b.png\"}\n{\"image\": \"a.png\"}"] {
            assert_eq!(listed(text).unwrap(), [entry(1, "b.png"), entry(2, "a.png")], "{text}");
        }
        assert_eq!(plain("./a//b.png"), plain("a/./b.png"));
    }

    #[test]
    fn a_bad_entry_is_named_with_its_line() {
        for (text, expected) in [
            ("[\"a.png\",\n3]", "list.txt:2: an entry must be a path, or an object with the field image"),
            ("[\"a.png\",\nNaN]", "list.txt:2: NaN is not JSON, at column 1"),
            ("{\"images\": [\"a.png\"]}", "list.txt:1: the file is a JSON object with the field \"images\""),
        ] {
            let message = listed(text).unwrap_err();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
