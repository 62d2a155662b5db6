//! A row, and what can be wrong with the file that it is in.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Error;

/// A longer row means that a quote or bracket is not closed. It bounds memory.
pub(super) const MAX_ROW_BYTES: usize = 64 << 20;

/// A row as it stands in its file.
#[derive(Debug)]
pub(crate) struct Row {
    /// From 1.
    pub(crate) number: u64,
    /// Where to come back to, for [`super::RowFile::seek`].
    pub(crate) offset: u64,
    /// For messages.
    pub(crate) place: String,
    pub(crate) fields: Map<String, Value>,
    pub(crate) image: ImageCell,
}

/// What a row has in the column with images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ImageCell {
    None,
    Bytes(Vec<u8>),
    Base64(String),
    /// The index of the row that has the image.
    Reference(String),
}

pub(super) fn cannot_read(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File {
        file: path.into(),
        message: format!("cannot read the file ({source}); check that it is there and readable"),
    }
}

pub(super) fn cut_short(path: &Path, what: &str) -> Error {
    Error::File {
        file: path.into(),
        message: format!("the file was cut short or is damaged ({what}); download it again"),
    }
}
