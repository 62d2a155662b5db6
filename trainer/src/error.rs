//! What can go wrong in a step, and the one place where it becomes an exit code.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use stic_contract::ExitCode;

/// Why a step ended early. Every message names the file, the field and the mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, the model's files included, cannot be used: running again changes nothing.
    #[error("{0}")]
    Config(String),
    /// The data cannot be used.
    #[error("{0}")]
    Data(String),
    /// Reading or writing failed.
    #[error("{path}: {source}; {}", mend_of(source))]
    Storage {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// SIGTERM or SIGINT was honoured and the state saved.
    #[error("interrupted; what is done was saved, run the step again to go on")]
    Interrupted,
    /// The tensor library failed: a bug of ours.
    #[error("tensor computation failed: {0}; this is a bug, please report it with the run config")]
    Tensor(#[from] candle_core::Error),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A storage error at `path`.
    pub fn storage(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Storage { path, source }
    }

    /// An error in opening an input at `path`: the data's mistake where it is not there, the storage's otherwise.
    pub fn input(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| {
            let reason = match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => "not found",
                ErrorKind::IsADirectory => "is a folder where a file is expected",
                _ => return Self::Storage { path, source },
            };
            Self::Data(format!("{}: {reason}; correct the path, or put it there", path.display()))
        }
    }

    /// The same error, said of one row of a file.
    #[must_use]
    pub fn in_row(self, row: &str) -> Self {
        match self {
            Self::Config(message) => Self::Config(format!("{row}: {message}")),
            Self::Data(message) => Self::Data(format!("{row}: {message}")),
            other => other,
        }
    }

    /// The exit code it becomes.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::ConfigInvalid,
            Self::Data(_) => ExitCode::DataInvalid,
            Self::Storage { .. } => ExitCode::StorageFailed,
            Self::Interrupted => ExitCode::Interrupted,
            Self::Tensor(_) => ExitCode::Bug,
        }
    }
}

fn mend_of(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "check that the path exists in the volume",
        ErrorKind::PermissionDenied => "check the owner of the volume and the pod's fsGroup",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space or enlarge the volume, then run again: finished items are kept"
        }
        ErrorKind::FileTooLarge => {
            "raise the limit on the size of a file (ulimit -f), then run again: finished items are kept"
        }
        ErrorKind::ReadOnlyFilesystem => "the output volume must be mounted read-write",
        _ => "check the volume, then run again: finished items are kept",
    }
}
