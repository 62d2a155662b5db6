//! Which `StageTwoRun`s start from which `StageOneRun`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// `StageTwoRun`s by the namespace and name of the `StageOneRun` that they start from.
#[derive(Debug, Default)]
pub struct References {
    by_upstream: Mutex<HashMap<(String, String), BTreeSet<String>>>,
}

impl References {
    /// Records that `run` starts from `upstream`.
    pub fn insert(&self, namespace: &str, upstream: &str, run: &str) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.entry((namespace.to_owned(), upstream.to_owned())).or_default().insert(run.to_owned());
    }

    /// The runs that start from `upstream`.
    #[must_use]
    pub fn of(&self, namespace: &str, upstream: &str) -> Vec<String> {
        let by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), upstream.to_owned());
        by_upstream.get(&key).into_iter().flatten().cloned().collect()
    }

    /// Forgets a `StageTwoRun` that was deleted. Going through all entries is cheap for something that rare.
    pub fn forget(&self, namespace: &str, run: &str) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.retain(|(of, _), runs| {
            if of == namespace {
                runs.remove(run);
            }
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
