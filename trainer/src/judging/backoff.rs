//! How long to wait for a judge that does not answer, and when to give up.

use std::time::Duration;

/// How much a judge may fail.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How often one request is sent.
    pub tries: u32,
    /// Before the second try. It doubles with every further one.
    pub first_delay: Duration,
    /// Between two tries, unless the judge asks for more.
    pub longest_delay: Duration,
    /// How long a judge may ask to wait.
    pub longest_retry_after: Duration,
    /// How long all requests may fail.
    pub outage: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(120),
            tries: 8,
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(60),
            longest_retry_after: Duration::from_secs(300),
            outage: Duration::from_secs(600),
        }
    }
}

impl Patience {
    /// The delay after so many failures of one request; `None` once there were enough. `retry_after` is what the judge asks
    /// for.
    pub(super) fn delay(&self, failures: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if failures >= self.tries {
            return None;
        }
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let own = self.first_delay.saturating_mul(doubled).min(self.longest_delay);
        Some(retry_after.map_or(own, |asked| asked.min(self.longest_retry_after)))
    }
}

/// For how long every request has failed, whatever it was about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outage {
    since: Option<Duration>,
}

impl Outage {
    /// Returns how long the outage has lasted.
    pub(super) fn failed(&mut self, now: Duration) -> Duration {
        now.saturating_sub(*self.since.get_or_insert(now))
    }

    pub(super) const fn ended(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_end() {
        let patience = Patience { tries: 9, ..Patience::default() };
        let delays: Vec<u64> =
            (1..).map_while(|failures| patience.delay(failures, None)).map(|delay| delay.as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn the_judge_may_ask_for_another_delay_but_not_for_hours() {
        let asked = |seconds| Patience::default().delay(1, Some(Duration::from_secs(seconds)));
        assert_eq!([asked(0), asked(90), asked(86_400)].map(|delay| delay.unwrap().as_secs()), [0, 90, 300]);
        assert_eq!(Patience::default().delay(8, Some(Duration::ZERO)), None);
    }

    #[test]
    fn an_outage_lasts_from_its_first_failure_to_the_next_reply() {
        let mut outage = Outage::default();
        let failed = |outage: &mut Outage, at| outage.failed(Duration::from_secs(at)).as_secs();
        assert_eq!([10, 15, 70].map(|at| failed(&mut outage, at)), [0, 5, 60]);
        outage.ended();
        assert_eq!(failed(&mut outage, 80), 0);
    }
}
