//! Opening inputs, and reading the small files beside a model.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The model's own description, in every layout of a checkpoint.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// How a file begins that Git LFS left in the place of the real one.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
pub(super) const LFS_ADVICE: &str =
    "it is a Git LFS pointer instead of the file: run git lfs pull in the repository";

pub(super) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// Opens a file of data. A pipe is refused, because opening one blocks until somebody writes to it.
pub(crate) fn open(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(Error::input(path))?;
    if metadata.is_dir() {
        return Err(Error::input(path)(ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Error::Data(format!("{}: is not a regular file; name one", path.display())));
    }
    let mut file = File::open(path).map_err(Error::input(path))?;
    let mut head = Vec::new();
    file.by_ref()
        .take(LFS_POINTER.len() as u64)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind())
        .map_err(Error::storage(path))?;
    if is_lfs_pointer(&head) {
        return Err(Error::Data(format!("{}: {LFS_ADVICE}", path.display())));
    }
    Ok(file)
}

/// Refuses a folder, pipe or socket where a model's file is expected. A missing file is not an error.
pub(crate) fn require_regular(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Error::Config(format!(
            "{}: is not a regular file; copy the file from the model's repository again",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The text of a model's file; `None` where there is no such file.
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

/// The JSON object in a model's file; `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let advice = damage_advice(text.as_bytes());
        Error::Config(format!("{}: {error}; {advice}", path.display()))
    })
}

/// What is wrong with a model's file whose `bytes` cannot be parsed, and how to fix it.
pub(crate) fn damage_advice(bytes: &[u8]) -> &'static str {
    if is_lfs_pointer(bytes) {
        LFS_ADVICE
    } else if bytes.is_empty() {
        "it is empty, copy it again"
    } else {
        "it was truncated or damaged, copy it again"
    }
}
