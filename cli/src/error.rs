//! Why a command ended early, and the one place where that becomes an exit code.

use std::fmt;
use std::path::Path;

use stic_contract::ExitCode;

use crate::say::tell;

/// The cluster cannot be reached, or refuses (`EX_UNAVAILABLE`). No trainer ends with it.
const UNAVAILABLE: u8 = 69;

/// A failure: its message ends with the mend.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub code: u8,
    /// None if it has been told already.
    pub message: Option<String>,
    /// Whether the same may go well a moment later, with nothing mended.
    pub passes: bool,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: ExitCode, message: impl fmt::Display) -> Self {
        Self { code: exit.code(), message: Some(message.to_string()), passes: false }
    }

    /// A manifest or an argument is wrong.
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self::new(ExitCode::ConfigInvalid, message)
    }

    /// Reading or writing `path` failed.
    pub(crate) fn storage(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |error| {
            Self::new(
                ExitCode::StorageFailed,
                format!(
                    "{path}: {error}; check the folder and the space left, then run the same command again"
                ),
            )
        }
    }

    /// The cluster cannot be reached, or refuses.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self { code: UNAVAILABLE, message: Some(message.to_string()), passes: false }
    }

    /// What cannot be.
    pub(crate) fn bug(what: impl fmt::Display) -> Self {
        Self::new(ExitCode::Bug, format!("{what}; this is a bug, please report it with the manifests"))
    }

    pub(crate) fn from_clap(error: clap::Error) -> Self {
        let _ = error.print();
        let exit = if error.use_stderr() { ExitCode::ConfigInvalid } else { ExitCode::Done };
        Self { code: exit.code(), message: None, passes: false }
    }

    pub(crate) fn report(&self) -> std::process::ExitCode {
        if let Some(message) = &self.message {
            let kind = if self.code == ExitCode::Interrupted.code() { "" } else { "error: " };
            tell(format_args!("{kind}{message}"));
        }
        self.code.into()
    }
}
