//! The rows of a published file, one in memory at a time, with places to come back to.

mod json;
mod parquet;
mod row;
mod tsv;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use self::json::JsonFile;
use self::parquet::ParquetFile;
use self::row::cannot_read;
use self::tsv::TsvFile;
use super::form::{Form, Format, ImageSource};
use crate::error::{Error, Result};

pub(crate) use self::row::{ImageCell, Row};

/// An open file with rows.
pub(crate) enum RowFile {
    Parquet(Box<ParquetFile>),
    Tsv(TsvFile),
    Json(JsonFile),
}

impl RowFile {
    /// Opens `path`. `name` is what messages about rows call it.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, or is none of the form's format.
    pub(crate) fn open(path: &Path, name: &str, form: &Form) -> Result<Self> {
        let image = match form.image {
            ImageSource::Column(column) => Some(column),
            ImageSource::Folder(_) => None,
        };
        refuse_pointer(path)?;
        let name = name.to_owned();
        Ok(match form.format {
            Format::Parquet => Self::Parquet(Box::new(ParquetFile::open(path, name, form.columns, image)?)),
            Format::Tsv => Self::Tsv(TsvFile::open(path, name, image)?),
            format @ (Format::JsonArray | Format::JsonLines | Format::JsonByKey) => {
                Self::Json(JsonFile::open(path, name, format, image)?)
            }
        })
    }

    /// The names of the columns; of JSON, the fields of the first row.
    ///
    /// # Errors
    /// Those of the first row.
    pub(crate) fn columns(&mut self) -> Result<Vec<String>> {
        match self {
            Self::Parquet(file) => Ok(file.columns()),
            Self::Tsv(file) => Ok(file.columns().to_vec()),
            Self::Json(file) => file.columns(),
        }
    }

    /// Goes on with the row that had this number and offset.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn seek(&mut self, number: u64, offset: u64) -> Result<()> {
        match self {
            Self::Parquet(file) => file.seek(number),
            Self::Tsv(file) => file.seek(number, offset),
            Self::Json(file) => file.seek(number, offset),
        }
    }
}

/// A [`Error::Row`] leaves the rows after it readable; after an [`Error::File`] some or all of them are lost.
impl Iterator for RowFile {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        match self {
            Self::Parquet(file) => file.next(),
            Self::Tsv(file) => file.next(),
            Self::Json(file) => file.next(),
        }
    }
}

/// Whether bytes are what `git clone` leaves of a large file if Git LFS is not installed.
pub(crate) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/")
}

fn refuse_pointer(path: &Path) -> Result<()> {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).map_err(cannot_read(path))?;
    if is_pointer(&start) {
        return Err(Error::File {
            file: path.into(),
            message: "this is a Git LFS pointer instead of the file; run `git lfs pull` where the repository was cloned"
                .into(),
        });
    }
    Ok(())
}
