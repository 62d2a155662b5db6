//! What can be wrong with the files of a benchmark.

use std::path::PathBuf;

/// What can be wrong with the files of a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds none of the forms in which the benchmark is published.
    #[error("{folder}: {message}")]
    Folder { folder: PathBuf, message: String },
    /// A file that cannot be read, or is none of its format.
    #[error("{file}: {message}")]
    File { file: PathBuf, message: String },
    /// A row that cannot be used. `place` is its file and row.
    #[error("{place}: {message}")]
    Row { place: String, message: String },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
