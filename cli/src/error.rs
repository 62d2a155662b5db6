//! Why a command failed, and with which exit code.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use stic_contract::ExitCode;
use stic_contract::exit_code::CLUSTER_UNAVAILABLE;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code of the process.
    pub code: u8,
    /// What happened and how to fix it; `None` if that was printed already.
    pub message: Option<String>,
    /// Whether the same request may succeed a moment later without any change.
    pub is_transient: bool,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: ExitCode, message: impl fmt::Display) -> Self {
        Self { code: exit.code(), message: Some(message.to_string()), is_transient: false }
    }

    /// A manifest or an argument is invalid.
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self::new(ExitCode::ConfigInvalid, message)
    }

    /// Reading or writing `path` failed.
    pub(crate) fn storage(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |error| {
            let advice = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "Change the owner or mode of the folder, or use another --work-dir or --volume."
                }
                _ => "Check the folder and the free space, then run the same command again.",
            };
            Self::new(ExitCode::StorageFailed, format!("{path}: {error}. {advice}"))
        }
    }

    /// The cluster cannot be reached, or refuses the request.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self { code: CLUSTER_UNAVAILABLE, message: Some(message.to_string()), is_transient: false }
    }

    /// Something that should be impossible.
    pub(crate) fn bug(what: impl fmt::Display) -> Self {
        Self::new(ExitCode::Bug, format!("{what}. This is a bug; please report it with the manifests."))
    }

    /// Prints the error, or the help text, as clap does.
    pub(crate) fn from_clap(error: clap::Error) -> Self {
        let _ = error.print();
        let exit = if error.use_stderr() { ExitCode::ConfigInvalid } else { ExitCode::Done };
        Self { code: exit.code(), message: None, is_transient: false }
    }
}
