//! What a folder takes on disk.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use crate::error::{Error, Result};

/// What the files below a folder take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    pub bytes: u64,
    /// When a file was last changed.
    pub changed: SystemTime,
}

/// Adds up the files below `dir`. One that is moved or removed in the meantime does not count.
///
/// # Errors
/// [`Error::Storage`].
pub fn disk_usage(dir: &Path) -> Result<DiskUsage> {
    let mut usage = DiskUsage { bytes: 0, changed: SystemTime::UNIX_EPOCH };
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::storage(&folder))? {
            let path = entry.map_err(Error::storage(&folder))?.path();
            let metadata = match path.symlink_metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(Error::storage(&path))?,
            };
            if metadata.is_dir() {
                folders.push(path);
            } else {
                usage.bytes += metadata.len();
                usage.changed = usage.changed.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            }
        }
    }
    Ok(usage)
}
