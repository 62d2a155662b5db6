//! Opening inputs, and reading the small files beside a model.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Opens a file of data. A pipe is refused: to open one waits for somebody who writes to it.
pub(crate) fn open(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(Error::input(path))?;
    if metadata.is_dir() {
        return Err(Error::input(path)(ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Error::Data(format!("{}: is not a regular file; name one", path.display())));
    }
    File::open(path).map_err(Error::input(path))
}

/// Refuses what is there under the name of a model's file and is none.
pub(crate) fn require_regular(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Error::Config(format!(
            "{}: is not a regular file; copy the file from the model's repository again",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The text of a model's file; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    require_regular(path)?;
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::Config(format!("{}: is not UTF-8; copy the file again", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::storage(path)(error)),
    }
}

/// A JSON object; `None` where there is no file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let mend = mend_of(text.as_bytes());
        Error::Config(format!("{}: {error}; {mend}", path.display()))
    })
}

/// What to do about a file of a repository that is not what its name says.
pub(crate) fn mend_of(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS in the file's place: run git lfs pull in the repository"
    } else if bytes.is_empty() {
        "it is empty, copy it again"
    } else {
        "it was truncated or damaged, copy it again"
    }
}
