//! Asks the judge, again and again if need be.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stic_contract::evaluation::JudgeEndpoint;
use stic_evaluation::judge::Request;

use super::backoff::{Outage, Patience};
use super::budget::Budget;
use super::client::{Client, Outcome};
use super::clock::{Clock, SystemClock};
use super::pace::Pace;
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};

/// A judge that several threads ask.
pub struct Judge<'a> {
    client: Client,
    url: String,
    patience: Patience,
    clock: Box<dyn Clock>,
    cancellation: &'a CancellationToken,
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    budget: Budget,
    outage: Outage,
}

impl<'a> Judge<'a> {
    #[must_use]
    pub fn new(
        endpoint: &JudgeEndpoint,
        key: Option<String>,
        budget: Budget,
        patience: Patience,
        cancellation: &'a CancellationToken,
    ) -> Self {
        let state =
            State { pace: Pace::new(endpoint.max_requests_per_minute), budget, outage: Outage::default() };
        Self {
            client: Client::new(endpoint, key, patience.request_timeout),
            url: endpoint.url.clone(),
            patience,
            clock: Box::new(SystemClock::default()),
            cancellation,
            state: Mutex::new(state),
        }
    }

    /// The requests that the run has sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state(|state| state.budget.sent())
    }

    /// The judge's reply; `None` if the run may send no more requests. `stop` ends the waiting between requests, but not a
    /// request, whose reply would be lost.
    ///
    /// # Errors
    /// [`Error::JudgeUnavailable`] if it keeps failing, [`Error::JudgeStopped`] if it refuses; [`Error::Interrupted`];
    /// [`Error::Storage`].
    pub(super) fn ask(&self, request: &Request, stop: &CancellationToken) -> Result<Option<String>> {
        let mut failures = 0;
        loop {
            let wait = self.state(|state| state.pace.book(self.clock.now()));
            self.clock.sleep(wait, stop)?;
            if !self.state(|state| state.budget.take())? {
                return Ok(None);
            }
            match self.client.send(request, self.cancellation)? {
                Outcome::Reply(text) => {
                    self.state(|state| state.outage.ended());
                    return Ok(Some(text));
                }
                Outcome::Refused { reason } => {
                    return Err(Error::JudgeStopped(format!(
                        "the judge at {} refuses requests: {reason}; correct spec.judge or its key, then raise spec.retry. Answers and judgements are kept",
                        self.url
                    )));
                }
                Outcome::Failed { reason, retry_after } => {
                    failures += 1;
                    self.wait(failures, &reason, retry_after, stop)?;
                }
            }
        }
    }

    /// Waits before the next try.
    fn wait(
        &self,
        failures: u32,
        reason: &str,
        retry_after: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let outage = self.state(|state| state.outage.failed(self.clock.now()));
        let delay = self.patience.delay(failures, retry_after).filter(|_| outage <= self.patience.outage);
        let Some(delay) = delay else {
            return Err(Error::JudgeUnavailable(format!(
                "the judge at {} does not answer: {reason}; check spec.judge.url and the judge. Answers and judgements are kept",
                self.url
            )));
        };
        tracing::warn!(reason, seconds = delay.as_secs_f64(), "the judge failed; asking it again");
        self.clock.sleep(delay, stop)
    }

    pub(super) const fn cancellation(&self) -> &'a CancellationToken {
        self.cancellation
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use stic_contract::ExitCode;
    use stic_evaluation::judge::{Message, Role};

    use super::super::testing::{Action, Server};
    use super::*;

    const REPLY: Action = Action::Reply(200, "", r#"{"choices": [{"message": {"content": "0.5"}}]}"#);

    /// A time that passes only in sleeps, which are recorded.
    #[derive(Debug, Clone, Default)]
    struct FakeClock(Arc<Mutex<Vec<Duration>>>);

    impl FakeClock {
        fn sleeps(&self) -> Vec<u64> {
            self.0.lock().expect("no panic").iter().map(Duration::as_secs).collect()
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            self.0.lock().expect("no panic").iter().sum()
        }

        fn sleep(&self, duration: Duration, cancellation: &CancellationToken) -> Result<()> {
            cancellation.check()?;
            if !duration.is_zero() {
                self.0.lock().expect("no panic").push(duration);
            }
            Ok(())
        }
    }

    struct Asked {
        outcomes: Vec<Result<Option<String>>>,
        requests: Vec<String>,
        sleeps: Vec<u64>,
    }

    /// Asks a server with these actions so many times.
    fn ask(
        actions: Vec<Action>,
        times: usize,
        patience: Patience,
        limits: (Option<u32>, Option<u64>),
    ) -> Asked {
        let server = Server::start(actions);
        let dir = tempfile::tempdir().expect("a folder");
        let endpoint = JudgeEndpoint {
            url: server.url.clone(),
            model: "a-judge".into(),
            has_api_key: true,
            repeats: 1,
            max_requests_per_minute: limits.0.and_then(NonZeroU32::new),
            max_requests: limits.1,
        };
        let budget = Budget::open(&dir.path().join("requests.json"), endpoint.max_requests).expect("opened");
        let cancellation = CancellationToken::default();
        let clock = FakeClock::default();
        let judge = Judge {
            clock: Box::new(clock.clone()),
            ..Judge::new(&endpoint, Some("sk-1".into()), budget, patience, &cancellation)
        };
        let message = Message { role: Role::User, content: "Grade it.".into() };
        let request = Request { messages: vec![message], temperature: 0.0, max_tokens: 3 };
        let outcomes = (0..times).map(|_| judge.ask(&request, &cancellation)).collect();
        Asked { outcomes, requests: server.requests(), sleeps: clock.sleeps() }
    }

    fn reply(asked: &Asked) -> Option<&str> {
        asked.outcomes.last()?.as_ref().expect("a reply").as_deref()
    }

    #[test]
    fn what_may_pass_is_asked_again_after_a_while() {
        let failures = vec![
            Action::Reply(429, "Retry-After: 7\r\n", "{}"),
            Action::Reply(500, "", "oops"),
            Action::Close,
            Action::Hang,
            Action::Reply(200, "", "<html>"),
            REPLY,
        ];
        let patience = Patience { request_timeout: Duration::from_secs(2), ..Patience::default() };
        let asked = ask(failures, 1, patience, (None, None));
        assert_eq!(reply(&asked), Some("0.5"));
        assert_eq!(asked.sleeps, [7, 2, 4, 8, 16]);
        assert_eq!(asked.requests.len(), 6);
        let request = &asked.requests[0];
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
        assert!(request.to_ascii_lowercase().contains("authorization: bearer sk-1\r\n"), "{request}");
        let body = r#"{"model":"a-judge","messages":[{"role":"user","content":"Grade it."}],"temperature":0.0,"max_tokens":3}"#;
        assert!(request.ends_with(body), "{request}");
    }

    #[test]
    fn a_judge_that_keeps_failing_is_given_up() {
        let failing = || vec![Action::Reply(503, "", r#"{"error": {"message": "overloaded"}}"#)];
        let asked = ask(failing(), 1, Patience { tries: 3, ..Patience::default() }, (None, None));
        let error = asked.outcomes[0].as_ref().expect_err("it fails");
        assert_eq!(error.exit_code(), ExitCode::JudgeUnavailable);
        let message = error.to_string();
        assert!(
            message.contains("status 503 Service Unavailable: overloaded; check spec.judge.url"),
            "{message}"
        );
        assert_eq!((asked.requests.len(), asked.sleeps), (3, vec![1, 2]));

        // Other requests fail too, so the second one is given up sooner.
        let patience = Patience { tries: 3, outage: Duration::from_secs(2), ..Patience::default() };
        let asked = ask(failing(), 2, patience, (None, None));
        assert_eq!(asked.requests.len(), 4);
    }

    #[test]
    fn a_judge_that_refuses_is_not_asked_again() {
        let refusing =
            vec![Action::Reply(401, "", r#"{"error": {"message": "Incorrect API key provided: sk-1"}}"#)];
        let asked = ask(refusing, 1, Patience::default(), (None, None));
        let error = asked.outcomes[0].as_ref().expect_err("it refuses");
        assert_eq!(error.exit_code(), ExitCode::JudgeStopped);
        let message = error.to_string();
        assert!(
            message.contains("refuses requests: status 401 Unauthorized: Incorrect API key provided: [key]"),
            "{message}"
        );
        assert_eq!((asked.requests.len(), asked.sleeps), (1, vec![]));
    }

    #[test]
    fn requests_keep_to_the_pace_and_the_budget() {
        let asked = ask(vec![REPLY], 5, Patience::default(), (Some(20), Some(4)));
        assert_eq!(reply(&asked), None, "the budget is used up");
        assert_eq!((asked.requests.len(), asked.sleeps), (4, vec![3, 3, 3, 3]));
    }
}
