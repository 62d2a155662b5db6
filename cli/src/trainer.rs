//! Finds the trainer program.

use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::volumes::absolute;

const TRAINER: &str = "stic-trainer";

/// The trainer program: `given` if there is one, otherwise the one next to this program, otherwise the first one on
/// `PATH`.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return if given.is_file() {
            Ok(absolute(given))
        } else {
            Err(Failure::config(format!(
                "--trainer {}: no such file. Give the path of the {TRAINER} program.",
                given.display()
            )))
        };
    }
    let own_folder =
        std::env::current_exe().ok().and_then(|own| Some(own.canonicalize().ok()?.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = own_folder.iter().cloned().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(TRAINER)).find(|file| file.is_file()).map(|file| absolute(&file)).ok_or_else(
        || {
            let beside = own_folder.map(|folder| format!("{} (next to this program)", folder.display()));
            Failure::config(format!(
                "{TRAINER} is neither in {} nor in a folder on PATH. Install it with cargo install --path trainer, or give its path with --trainer.",
                beside.as_deref().unwrap_or("the folder of this program")
            ))
        },
    )
}
