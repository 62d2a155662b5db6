//! Per-object exponential backoff.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::context::RunKey;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(120);

/// How often objects failed in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<RunKey, u32>>,
}

impl Backoff {
    /// The wait after another failure of `run`.
    pub fn failed(&self, run: &RunKey) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(run.clone()).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(16));
        *count = count.saturating_add(1);
        wait.min(LONGEST)
    }

    /// Forgets the failures of `run`: it succeeded, or is gone.
    pub fn forget(&self, run: &RunKey) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

#[cfg(test)]
impl Backoff {
    pub(crate) fn kept(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::RunKind;

    #[test]
    fn waits_double_up_to_a_bound_and_start_anew_after_a_success() {
        let backoff = Backoff::default();
        let [a, b] = ["a", "b"].map(|name| RunKey::new(RunKind::StageOneRun, "n", name));
        let waits: Vec<u64> = (0..4).map(|_| backoff.failed(&a).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
        assert_eq!(backoff.failed(&b), FIRST, "objects do not wait for one another");
        for _ in 0..100 {
            assert!(backoff.failed(&a) <= LONGEST);
        }
        backoff.forget(&a);
        assert_eq!(backoff.failed(&a), FIRST);
    }
}
