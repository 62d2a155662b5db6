//! Words for people and for programs. `println!` and `eprintln!` panic where they go to a full disk, and a panic leaves
//! a trainer behind.

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use crate::error::{Failure, Result};

/// Tells a person something, who may not be there.
pub(crate) fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Gives what was asked for.
///
/// # Errors
/// That it could not be written; in silence where the reader has seen enough, such as `head`.
pub(crate) fn print(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| {
        let has_left = error.kind() == std::io::ErrorKind::BrokenPipe;
        let failure = Failure::storage(Path::new("standard output"))(error);
        if has_left { Failure { message: None, ..failure } } else { failure }
    })
}
