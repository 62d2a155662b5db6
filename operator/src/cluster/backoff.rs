//! Per-object exponential backoff.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(120);

/// How often objects failed in a row, by UID.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// The wait after another failure of `uid`.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(16));
        *count = count.saturating_add(1);
        wait.min(LONGEST)
    }

    /// Forgets the failures of `uid`.
    pub fn succeeded(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_anew_after_a_success() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (0..4).map(|_| backoff.failed("a").as_millis() as u64).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
        assert_eq!(backoff.failed("b"), FIRST, "objects do not wait for one another");
        for _ in 0..100 {
            assert!(backoff.failed("a") <= LONGEST);
        }
        backoff.succeeded("a");
        assert_eq!(backoff.failed("a"), FIRST);
    }
}
