//! Per-object exponential backoff.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::run_key::RunKey;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(120);

/// How often the reconciliation of each run failed in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<RunKey, u32>>,
}

impl Backoff {
    /// Counts another failure of `run` and returns how long to wait.
    pub fn failed(&self, run: &RunKey) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(run.clone()).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(16));
        *count = count.saturating_add(1);
        wait.min(LONGEST)
    }

    /// How often `run` has failed in a row.
    pub fn failures(&self, run: &RunKey) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(run).copied().unwrap_or_default()
    }

    /// Forgets the failures of `run`, which succeeded or no longer exists.
    pub fn forget(&self, run: &RunKey) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

#[cfg(test)]
impl Backoff {
    pub(crate) fn len(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::RunKind;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_after_a_success() {
        let backoff = Backoff::default();
        let [a, b] = ["a", "b"].map(|name| RunKey::new(RunKind::StageOneRun, "n", name));
        let waits: Vec<u64> = (0..4).map(|_| backoff.failed(&a).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
        assert_eq!(backoff.failed(&b), FIRST, "runs do not wait for each other");
        for _ in 0..100 {
            assert!(backoff.failed(&a) <= LONGEST);
        }
        assert_eq!(backoff.failures(&a), 104);
        backoff.forget(&a);
        assert_eq!(backoff.failures(&a), 0);
        assert_eq!(backoff.failed(&a), FIRST);
    }
}
