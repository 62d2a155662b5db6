//! Time, which tests replace.

use std::time::{Duration, Instant};

use crate::cancellation::CancellationToken;
use crate::error::Result;

/// How long a sleep lasts at most after it was cancelled.
const SLICE: Duration = Duration::from_millis(100);

/// Tells the time since it was made, and waits.
pub(super) trait Clock: Send + Sync {
    fn now(&self) -> Duration;

    /// # Errors
    /// [`crate::Error::Interrupted`] once `cancellation` is cancelled.
    fn sleep(&self, duration: Duration, cancellation: &CancellationToken) -> Result<()>;
}

/// The real time.
#[derive(Debug)]
pub(super) struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration, cancellation: &CancellationToken) -> Result<()> {
        let end = self.now() + duration;
        loop {
            cancellation.check()?;
            let left = end.saturating_sub(self.now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}
