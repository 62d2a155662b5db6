//! Atomic writes: a file or folder appears complete, or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces `path` by `bytes`: a reader sees the old file or the new one, also after a crash.
///
/// # Errors
/// [`Error::Storage`]; the old file then still exists.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes).map_err(Error::storage(path)))
}

/// As [`write()`], with the content written by `fill`.
///
/// # Errors
/// As [`write()`], and the error of `fill`.
pub fn write_with<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let partial = partial_path(path);
    let fill_and_sync = |mut file: File| {
        let filled = fill(&mut file)?;
        file.sync_all().and_then(|()| fs::rename(&partial, path)).map_err(Error::storage(path))?;
        Ok(filled)
    };
    let result = File::create(&partial).map_err(Error::storage(path)).and_then(fill_and_sync);
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    let filled = result?;
    sync_parent(path)?;
    Ok(filled)
}

/// As [`write()`], without waiting for the disk, for files that are not needed after a crash.
///
/// # Errors
/// As [`write()`].
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial_path(path);
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        let _ = fs::remove_file(&partial);
        Error::storage(path)(e)
    })
}

/// Creates the folder `path`, which must not exist or be empty, with the files that `fill` writes.
///
/// # Errors
/// The error of `fill`; [`Error::Config`] for a path without a name; [`Error::Storage`]. Nothing is then left behind.
pub fn write_dir<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    // So that `.` and a path with a trailing slash have a name.
    let path = std::path::absolute(path).map_err(Error::storage(path))?;
    if path.file_name().is_none() {
        return Err(Error::Config(format!(
            "{}: has no name; name a folder that does not exist yet",
            path.display()
        )));
    }
    let partial = partial_path(&path);
    match fs::remove_dir_all(&partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&partial)(e)),
        _ => create_dir(&partial)?,
    }
    let filled = fill(&partial).and_then(|filled| {
        if path.exists() {
            fs::remove_dir(&path).map_err(Error::storage(&path))?;
        }
        rename(&partial, &path)?;
        Ok(filled)
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    filled
}

/// Renames `from` to `to`. Where `to` is a folder, it must not exist.
///
/// # Errors
/// [`Error::Storage`].
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::storage(to))?;
    sync_parent(to)
}

/// Creates the folder and its parents.
///
/// # Errors
/// [`Error::Storage`].
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::storage(path))
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

// A rename is durable once the folder is synced.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::storage(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state.json");
        write(&path, b"old").expect("written");
        let failed = write_with(&path, |file| {
            file.write_all(b"ne").map_err(Error::storage(&path))?;
            Err::<(), _>(Error::storage(&path)(std::io::ErrorKind::StorageFull.into()))
        });
        let message = failed.expect_err("the disk is full").to_string();
        assert!(message.contains("state.json") && message.contains("free space"), "{message}");
        assert_eq!(fs::read(&path).expect("still there"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 1);
    }
}
