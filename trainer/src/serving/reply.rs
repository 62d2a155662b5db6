//! An answer while it is being generated, as one document or as server-sent events.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer_text::AnswerText;
use super::api::{AnswerMessage, Choice, Chunk, ChunkChoice, Completion, Delta, FinishReason, Head, Usage};
use super::api_error::ApiError;
use super::job::{Event, Job};
use super::job_queue::JobQueue;
use crate::data::encode::Encoder;

const ASSISTANT: &str = "assistant";
const FINGERPRINT: &str = concat!("stic-trainer-", env!("CARGO_PKG_VERSION"));

/// An answer. Dropping it, as when the client hangs up, closes the channel, and the engine gives up the job.
pub(super) struct Reply {
    pub(super) encoder: Arc<Encoder>,
    /// Tells why the channel closed.
    pub(super) queue: Arc<JobQueue<Job>>,
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) model: String,
    pub(super) prompt_tokens: usize,
    pub(super) text: AnswerText,
    tokens: Vec<u32>,
    id: String,
    created: u64,
}

/// What a streamed answer sends next.
enum Stage {
    Role,
    Content,
    Usage,
    End,
    Ended,
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Reply {
    pub(super) fn new(
        encoder: Arc<Encoder>,
        queue: Arc<JobQueue<Job>>,
        events: UnboundedReceiver<Event>,
        (model, prompt_tokens): (String, usize),
        stops: Vec<String>,
    ) -> Self {
        let id = format!("chatcmpl-{:016x}", RandomState::new().hash_one(&model));
        let (text, tokens, created) = (AnswerText::new(stops), Vec::new(), unix_seconds());
        Self { encoder, queue, events, model, prompt_tokens, text, tokens, id, created }
    }

    /// Waits for the next token; the reason to finish after the last one. The text is up to date if it is needed token by
    /// token, and at the end.
    async fn advance(&mut self, by_token: bool) -> Result<Option<FinishReason>, ApiError> {
        match self.events.recv().await {
            Some(Event::Token(token)) => {
                self.tokens.push(token);
                let stopped = by_token && self.decode()?;
                Ok(stopped.then_some(FinishReason::Stop))
            }
            Some(Event::Done { finished }) => {
                if !by_token {
                    self.decode()?;
                }
                Ok(Some(if finished { FinishReason::Stop } else { FinishReason::Length }))
            }
            None if self.queue.is_closed() => Err(ApiError::stopping()),
            None => Err(ApiError::failed("the model could not be computed; the server's log says why")),
        }
    }

    fn decode(&mut self) -> Result<bool, ApiError> {
        let text = self.encoder.tokenizer.decode(&self.tokens, true);
        Ok(self.text.set(text.map_err(|error| ApiError::failed(error.to_string()))?))
    }

    fn head(&self, object: &'static str) -> Head<'_> {
        let (id, model) = (&self.id, &self.model);
        Head { id, object, created: self.created, model, system_fingerprint: FINGERPRINT }
    }

    const fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.tokens.len())
    }

    /// The answer as one document.
    pub(super) async fn whole(mut self) -> Result<Response, ApiError> {
        let by_token = self.text.has_stops();
        let finish_reason = loop {
            if let Some(reason) = self.advance(by_token).await? {
                break reason;
            }
        };
        let message = AnswerMessage { role: ASSISTANT, content: self.text.whole(), refusal: () };
        Ok(json(&Completion {
            head: self.head("chat.completion"),
            choices: [Choice { index: 0, message, logprobs: (), finish_reason }],
            usage: self.usage(),
        }))
    }

    /// The answer as server-sent events.
    pub(super) fn streamed(self, include_usage: bool) -> Response {
        let events = stream::unfold((self, Stage::Role), move |(mut reply, stage)| async move {
            let (event, next) = reply.next_event(stage, include_usage).await?;
            Some((Ok::<_, Infallible>(event), (reply, next)))
        });
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(events)).into_response()
    }

    async fn next_event(&mut self, stage: Stage, include_usage: bool) -> Option<(String, Stage)> {
        match stage {
            Stage::Role => {
                let delta = Delta { role: Some(ASSISTANT), content: Some("") };
                Some((self.chunk(delta, None, include_usage), Stage::Content))
            }
            Stage::Content => Some(self.next_content(include_usage).await),
            Stage::Usage => {
                let head = self.head("chat.completion.chunk");
                let usage = Some(Some(self.usage()));
                Some((event(&Chunk { head, choices: Vec::new(), usage }), Stage::End))
            }
            Stage::End => Some(("data: [DONE]\n\n".to_owned(), Stage::Ended)),
            Stage::Ended => None,
        }
    }

    /// The next part of the text that is settled, or the end.
    async fn next_content(&mut self, include_usage: bool) -> (String, Stage) {
        loop {
            match self.advance(true).await {
                Ok(None) => {
                    let part = self.text.take_settled();
                    if !part.is_empty() {
                        let delta = Delta { role: None, content: Some(&part) };
                        return (self.chunk(delta, None, include_usage), Stage::Content);
                    }
                }
                Ok(reason) => {
                    let rest = self.text.take_rest();
                    let delta = Delta { role: None, content: (!rest.is_empty()).then_some(rest.as_str()) };
                    let next = if include_usage { Stage::Usage } else { Stage::End };
                    return (self.chunk(delta, reason, include_usage), next);
                }
                // The status was sent long ago.
                Err(error) => return (event(&error.document()), Stage::Ended),
            }
        }
    }

    fn chunk(&self, delta: Delta<'_>, finish_reason: Option<FinishReason>, include_usage: bool) -> String {
        let choice = ChunkChoice { index: 0, delta, logprobs: (), finish_reason };
        let head = self.head("chat.completion.chunk");
        event(&Chunk { head, choices: vec![choice], usage: include_usage.then_some(None) })
    }
}

/// A server-sent event.
fn event(document: &impl Serialize) -> String {
    format!("data: {}\n\n", to_json(document))
}

/// A response with this document.
pub(super) fn json(document: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], to_json(document)).into_response()
}

fn to_json(document: &impl Serialize) -> String {
    // Our documents have no maps with other keys than strings, so this cannot fail.
    serde_json::to_string(document).unwrap_or_default()
}
