//! How many requests a run may send in all, also after it was started again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::atomic;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    requests: u64,
}

/// Counts the requests of a run in a file.
#[derive(Debug)]
pub struct Budget {
    path: PathBuf,
    most: Option<u64>,
    sent: u64,
}

impl Budget {
    /// Continues the count in the file at `path`, if there is one. `most` is `None` for any number.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Data`] for a damaged file.
    pub fn open(path: &Path, most: Option<u64>) -> Result<Self> {
        let sent = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::Data(format!(
                    "{}: {error}; write {{\"requests\": 0}} to it to count from 0 again",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Sent::default(),
            Err(error) => return Err(Error::storage(path)(error)),
        };
        Ok(Self { path: path.to_owned(), most, sent: sent.requests })
    }

    /// The requests that were sent.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts a request before it is sent; false if no more may be sent.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn take(&mut self) -> Result<bool> {
        if self.most.is_some_and(|most| self.sent >= most) {
            return Ok(false);
        }
        self.sent += 1;
        let text = serde_json::to_vec(&Sent { requests: self.sent }).unwrap_or_default();
        atomic::write(&self.path, &text)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_over_restarts_and_a_raised_limit_continues() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("u-0.requests.json");
        let take = |most, times: usize| {
            let mut budget = Budget::open(&path, most).expect("opened");
            let taken = (0..times).filter(|_| budget.take().expect("written")).count();
            (taken, budget.sent())
        };
        assert_eq!(take(Some(3), 2), (2, 2));
        assert_eq!(take(Some(3), 2), (1, 3));
        assert_eq!(take(Some(5), 9), (2, 5));
        assert_eq!(take(None, 2), (2, 7));
        std::fs::write(&path, "{").expect("written");
        let error = Budget::open(&path, None).expect_err("damaged").to_string();
        assert!(error.contains("u-0.requests.json: ") && error.contains("{\"requests\": 0}"), "{error}");
    }
}
