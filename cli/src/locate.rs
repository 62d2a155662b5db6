//! Where the trainer is.

use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::volumes::absolute;

const TRAINER: &str = "stic-trainer";

/// The trainer: as given, else beside this program, else on `PATH`.
pub(crate) fn trainer(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return if given.is_file() {
            Ok(absolute(given))
        } else {
            Err(Failure::config(format!(
                "--trainer {}: there is no such file; name the trainer",
                given.display()
            )))
        };
    }
    let beside =
        std::env::current_exe().ok().and_then(|own| Some(own.canonicalize().ok()?.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.iter().cloned().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(TRAINER)).find(|file| file.is_file()).map(|file| absolute(&file)).ok_or_else(
        || {
            let beside = beside.map(|folder| folder.display().to_string()).unwrap_or_default();
            Failure::config(format!(
                "{TRAINER} is neither in {beside} nor on PATH; build it with cargo build --release -p stic-trainer, or name it with --trainer"
            ))
        },
    )
}
