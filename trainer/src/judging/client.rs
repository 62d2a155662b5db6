//! One request to an OpenAI-compatible API, and what its outcome means.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stic_contract::evaluation::{JUDGE_API_KEY, JudgeEndpoint};
use stic_evaluation::judge::Request;
use ureq::http::StatusCode;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};

/// How long a request goes on after it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// No reply that is read is longer.
const MAX_REPLY_BYTES: u64 = 16 << 20;
/// How much of a reply is in a message.
const MAX_SHOWN: usize = 300;

/// The outcome of a request.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Reply(String),
    /// It may succeed later, as soon as `retry_after` has passed if the judge says so.
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The judge refuses it, and will refuse it again.
    Refused {
        reason: String,
    },
}

/// Sends requests to a judge.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    model: String,
    /// Never in a message.
    key: Option<Arc<str>>,
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
}

/// The key of the judge's API, if the endpoint takes one: `variable` is the value of the environment variable for it.
///
/// # Errors
/// [`Error::Config`] if it is missing, or none that can be sent.
pub fn api_key(endpoint: &JudgeEndpoint, variable: Option<String>) -> Result<Option<String>> {
    if !endpoint.has_api_key {
        return Ok(None);
    }
    let key = variable.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).ok_or_else(|| {
        Error::Config(format!(
            "the judge needs a key, but {JUDGE_API_KEY} is not set; on a cluster, name a Secret with the key in spec.judge.apiKeySecretRef, and on a laptop export {JUDGE_API_KEY}"
        ))
    })?;
    if key.chars().all(|char| char.is_ascii_graphic()) {
        return Ok(Some(key));
    }
    Err(Error::Config(format!(
        "{JUDGE_API_KEY} has a character that no HTTP header may have; copy the key again, without spaces or line breaks inside"
    )))
}

impl Client {
    pub(super) fn new(endpoint: &JudgeEndpoint, key: Option<String>, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // A redirected POST would become a GET.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("stic-trainer/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(root_certificates()).build())
            .build();
        Self {
            agent: config.into(),
            url: format!("{}/chat/completions", endpoint.url.trim_end_matches('/')),
            model: endpoint.model.clone(),
            key: key.map(Into::into),
        }
    }

    /// Sends a request. If it is cancelled, its reply is lost.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once it is cancelled.
    pub(super) fn send(&self, request: &Request, cancellation: &CancellationToken) -> Result<Outcome> {
        let body = serde_json::to_vec(&Body { model: &self.model, request })
            .map_err(|error| Error::Data(error.to_string()))?;
        let (sender, receiver) = sync_channel(1);
        let client = self.clone();
        // A thread of its own, since a request that is under way cannot be ended.
        std::thread::spawn(move || {
            // Nobody receives it after a cancellation.
            let _ = sender.send(client.post(&body));
        });
        loop {
            match receiver.recv_timeout(POLL_INTERVAL) {
                Ok(outcome) => return Ok(outcome),
                Err(RecvTimeoutError::Timeout) => cancellation.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let reason = "the thread of the request panicked".to_owned();
                    return Ok(Outcome::Failed { reason, retry_after: None });
                }
            }
        }
    }

    fn post(&self, body: &[u8]) -> Outcome {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return self.not_sent(&error),
        };
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        match response.into_body().with_config().limit(MAX_REPLY_BYTES).read_to_vec() {
            Ok(body) => self.outcome(status, retry_after, &body),
            Err(error) => self.not_sent(&error),
        }
    }

    fn not_sent(&self, error: &ureq::Error) -> Outcome {
        use ureq::Error as E;
        let text = error.to_string();
        let advice = if text.contains("certificate") {
            "; set SSL_CERT_FILE to a file with the certificate of the CA that signed it"
        } else {
            ""
        };
        let reason = self.without_key(&format!("{text}{advice}"));
        match error {
            E::BadUri(_) | E::Http(_) | E::InvalidProxyUrl => Outcome::Refused { reason },
            _ => Outcome::Failed { reason, retry_after: None },
        }
    }

    fn outcome(&self, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Outcome {
        if status.is_success() {
            return match serde_json::from_slice::<Completion>(body) {
                Ok(completion) => completion.text(),
                Err(error) => {
                    let reason = format!("its reply is no chat completion ({error}): {}", shown(body));
                    Outcome::Failed { reason: self.without_key(&reason), retry_after: None }
                }
            };
        }
        let ServerError { message, code } = ServerError::read(body);
        let reason = self.without_key(&format!("status {status}: {message}"));
        let may_pass = match status {
            // What is used up does not come back by itself.
            StatusCode::TOO_MANY_REQUESTS => code.as_deref() != Some("insufficient_quota"),
            StatusCode::REQUEST_TIMEOUT => true,
            status => status.is_server_error(),
        };
        if may_pass { Outcome::Failed { reason, retry_after } } else { Outcome::Refused { reason } }
    }

    /// Servers may repeat the key in a message.
    fn without_key(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| text.replace(&**key, "[key]"))
    }
}

/// A reply, of which only the text is read.
#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    /// Null if the model refused to answer.
    #[serde(default)]
    content: Option<String>,
}

impl Completion {
    fn text(self) -> Outcome {
        match self.choices.into_iter().next() {
            Some(choice) => Outcome::Reply(choice.message.content.unwrap_or_default()),
            None => {
                let reason = "its reply has no choices".to_owned();
                Outcome::Failed { reason, retry_after: None }
            }
        }
    }
}

/// What a server says about a request that failed.
struct ServerError {
    message: String,
    code: Option<String>,
}

impl ServerError {
    fn read(body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = json.get("error").unwrap_or(&json);
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let message =
            error.as_str().map(str::to_owned).or_else(|| text("message")).or_else(|| text("detail"));
        Self { message: message.unwrap_or_else(|| shown(body)), code: text("code") }
    }
}

/// The beginning of a body, on one line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return "(no text)".to_owned();
    }
    words.join(" ").chars().take(MAX_SHOWN).collect()
}

/// In seconds; a date is not understood.
fn retry_after(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Those of the machine or of `SSL_CERT_FILE`, else Mozilla's: the trainer's image has none.
fn root_certificates() -> RootCerts {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a root certificate; check SSL_CERT_FILE and SSL_CERT_DIR");
    }
    if native.certs.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates = native.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    RootCerts::from(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(has_api_key: bool) -> JudgeEndpoint {
        JudgeEndpoint {
            url: "http://127.0.0.1:1/v1/".into(),
            model: "judge".into(),
            has_api_key,
            repeats: 1,
            max_requests_per_minute: None,
            max_requests: None,
        }
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        let client = Client::new(&endpoint(true), Some("sk-secret".into()), Duration::from_secs(1));
        client.outcome(StatusCode::from_u16(status).expect("a status"), None, body.as_bytes())
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        let failed =
            [(429, "{}"), (500, "oops"), (503, ""), (408, ""), (200, "<html>"), (200, r#"{"choices": []}"#)];
        for (status, body) in failed {
            assert!(matches!(outcome(status, body), Outcome::Failed { .. }), "{status} {body}");
        }
        let quota = r#"{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}"#;
        for (status, body) in [(400, "{}"), (401, "{}"), (403, ""), (404, ""), (302, ""), (429, quota)] {
            assert!(matches!(outcome(status, body), Outcome::Refused { .. }), "{status} {body}");
        }
        let reply = |content: &str| {
            outcome(200, &format!(r#"{{"choices": [{{"message": {{"content": {content}}}}}]}}"#))
        };
        assert_eq!(reply("\"0.5\""), Outcome::Reply("0.5".into()));
        assert_eq!(reply("null"), Outcome::Reply(String::new()), "a refusal to answer is a reply");
    }

    #[test]
    fn a_message_is_the_servers_own_without_the_key() {
        let body =
            r#"{"error": {"message": "Incorrect API key provided: sk-secret.", "code": "invalid_api_key"}}"#;
        let reason = "status 401 Unauthorized: Incorrect API key provided: [key].".into();
        assert_eq!(outcome(401, body), Outcome::Refused { reason });
    }

    #[test]
    fn a_missing_key_is_named_with_both_ways_to_set_it() {
        let key = |value: Option<&str>| api_key(&endpoint(true), value.map(str::to_owned));
        for missing in [None, Some(" \n")] {
            let error = key(missing).expect_err("there is no key").to_string();
            assert!(
                error.contains("STIC_JUDGE_API_KEY is not set; on a cluster")
                    && error.contains("apiKeySecretRef"),
                "{error}"
            );
        }
        assert!(key(Some("a\nb")).expect_err("two lines").to_string().contains("line breaks"));
        assert_eq!(key(Some("sk-1\n")).expect("trimmed").as_deref(), Some("sk-1"));
        assert_eq!(api_key(&endpoint(false), Some("sk-1".into())).expect("none is needed"), None);
    }
}
