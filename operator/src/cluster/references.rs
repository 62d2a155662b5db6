//! Which runs start from which others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::run_key::RunKey;

/// Runs by the run that they start from.
#[derive(Debug, Default)]
pub struct References {
    by_upstream: Mutex<HashMap<RunKey, BTreeSet<RunKey>>>,
}

impl References {
    /// Records that `run` starts from `upstream`.
    pub fn insert(&self, upstream: RunKey, run: RunKey) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.entry(upstream).or_default().insert(run);
    }

    /// The runs that start from `upstream`.
    #[must_use]
    pub fn of(&self, upstream: &RunKey) -> Vec<RunKey> {
        let by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.get(upstream).into_iter().flatten().cloned().collect()
    }

    /// Forgets a run that was deleted. Going through all entries is cheap for something that rare.
    pub fn forget(&self, run: &RunKey) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.retain(|_, runs| {
            runs.remove(run);
            !runs.is_empty()
        });
    }
}

#[cfg(test)]
impl References {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
