//! Files and signals: volumes, PEFT adapters, journals, sorting, resume state, progress, artifacts, atomic writes.

pub mod adapter;
pub mod artifact;
pub mod atomic;
pub mod export;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod progress;
pub mod resume;
pub mod serve;
pub mod sorter;
pub mod stop;
pub mod tensorboard;
pub mod volumes;

use std::path::Path;

use stic_contract::Digest;

use crate::error::{Error, Result};

/// The digest of a file's bytes.
///
/// # Errors
/// [`Error::Storage`].
pub fn file_digest(path: &Path) -> Result<Digest> {
    let file = std::fs::File::open(path).map_err(Error::storage(path))?;
    Ok(Digest::of_reader(file).map_err(Error::storage(path))?.0)
}
