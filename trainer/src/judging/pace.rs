//! A limit on how often requests are sent.

use std::num::NonZeroU32;
use std::time::Duration;

/// Spreads requests evenly over time.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Between two requests.
    interval: Duration,
    /// When the next request may be sent.
    next: Duration,
}

impl Pace {
    /// `None` for no limit.
    pub(super) fn new(per_minute: Option<NonZeroU32>) -> Self {
        let interval = per_minute.map_or(Duration::ZERO, |count| Duration::from_secs(60) / count.get());
        Self { interval, next: Duration::ZERO }
    }

    /// Books the next request, and returns how long to wait before it is sent.
    pub(super) fn book(&mut self, now: Duration) -> Duration {
        let at = self.next.max(now);
        self.next = at + self.interval;
        at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_sent_no_more_often_than_allowed() {
        let mut pace = Pace::new(NonZeroU32::new(30));
        let wait = |pace: &mut Pace, now| pace.book(Duration::from_secs(now)).as_secs();
        assert_eq!([0, 0, 0].map(|now| wait(&mut pace, now)), [0, 2, 4]);
        assert_eq!(wait(&mut pace, 5), 1);
        assert_eq!(wait(&mut pace, 60), 0, "time that was not used is not made up for");
        assert_eq!(wait(&mut pace, 60), 2);
        let mut unlimited = Pace::new(None);
        assert_eq!([0, 0].map(|now| wait(&mut unlimited, now)), [0, 0]);
    }
}
