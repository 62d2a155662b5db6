//! Standard output and standard error. `println!` and `eprintln!` panic if they cannot write, for example to a full disk,
//! and a panic would leave a trainer process behind.

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use crate::error::{Failure, Result};

/// Prints a line for people. Errors are ignored, because nothing depends on these messages.
pub(crate) fn print_stderr(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a line of the command's result.
///
/// # Errors
/// If it cannot be written. A closed pipe, as of `head`, is an error without a message.
pub(crate) fn print(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| {
        let is_closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        let failure = Failure::storage(Path::new("standard output"))(error);
        if is_closed { Failure { message: None, ..failure } } else { failure }
    })
}
