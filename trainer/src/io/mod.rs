//! Files: volumes, locks, journals, artifacts, atomic writes, progress and metrics. Nothing here knows of a model.

pub mod artifact;
pub mod atomic;
pub mod disk_usage;
mod human_bytes;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod progress;
pub mod safetensors;
pub mod serve;
pub mod tensorboard;
pub mod volumes;

use std::path::Path;

use stic_contract::Digest;

use crate::error::{Error, Result};

pub use self::human_bytes::human_bytes;

/// The digest of a file's bytes.
///
/// # Errors
/// [`Error::Storage`].
pub fn file_digest(path: &Path) -> Result<Digest> {
    let file = std::fs::File::open(path).map_err(Error::storage(path))?;
    Ok(Digest::of_reader(file).map_err(Error::storage(path))?.0)
}
