//! A lock that keeps two processes from running the same step and overwriting each other's rows.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Held until it is dropped or its process ends, even by SIGKILL.
#[derive(Debug)]
pub struct StepLock {
    _file: File,
}

impl StepLock {
    /// Takes the lock at `path`, and waits while another process holds it: a trainer whose parent was killed may still
    /// run for a while. Its work is then continued.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when cancelled while waiting; [`Error::Storage`].
    pub fn acquire(path: &Path, cancellation: &CancellationToken) -> Result<Self> {
        let file = File::create(path).map_err(Error::storage(path))?;
        let mut warned = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => cancellation.check()?,
                // Some network file systems have no locks. On a cluster, there is only one pod for each index anyway.
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(path = %path.display(), %error, "cannot lock the file; continuing without a lock");
                    break;
                }
            }
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    lock = %path.display(),
                    "another trainer works on this step; waiting until it ends, then continuing its work"
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(Self { _file: file })
    }

    /// Whether a process holds the lock at `path`. Where there are no locks, none does.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = File::open(path).map_err(Error::storage(path))?;
        Ok(matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_waits_and_can_be_cancelled() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("train.lock");
        let cancellation = CancellationToken::default();
        let first = StepLock::acquire(&path, &cancellation).expect("nobody has it");
        assert!(StepLock::is_held(&path).expect("it is there"));
        cancellation.cancel();
        assert!(matches!(StepLock::acquire(&path, &cancellation), Err(Error::Interrupted)));
        drop(first);
        assert!(!StepLock::is_held(&path).expect("it is there"));
        StepLock::acquire(&path, &cancellation).expect("it is free again");
    }
}
