//! One process a step: two would write over each other's rows.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::stop::Stop;
use crate::error::{Error, Result};

const LOOK: Duration = Duration::from_millis(100);

/// Held until it is dropped, or until the process that holds it ends however it ends.
#[derive(Debug)]
pub struct StepLock {
    _file: File,
}

impl StepLock {
    /// Takes the lock at `path`, and waits while another process has it: a trainer goes on for a while, or to its
    /// end, when the one that started it was killed. What it has done by then is found.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it was asked to stop meanwhile; [`Error::Storage`].
    pub fn acquire(path: &Path, stop: &Stop) -> Result<Self> {
        let file = File::create(path).map_err(Error::storage(path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => stop.check()?,
                // Some network file systems have no locks. On a cluster there is one pod for an index in any case.
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(path = %path.display(), %error, "cannot be locked; goes on without");
                    break;
                }
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    lock = %path.display(),
                    "another trainer works on this step; waits until it ends, then goes on from what it did"
                );
            }
            std::thread::sleep(LOOK);
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_a_waiting_one_can_be_stopped() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("train.lock");
        let stop = Stop::default();
        let first = StepLock::acquire(&path, &stop).expect("nobody has it");
        stop.ask();
        assert!(matches!(StepLock::acquire(&path, &stop), Err(Error::Interrupted)));
        drop(first);
        StepLock::acquire(&path, &stop).expect("it is free again");
    }
}
