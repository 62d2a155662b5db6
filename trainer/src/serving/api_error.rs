//! Errors in OpenAI's format, each with its HTTP status.

use axum::http::StatusCode;
use serde::Serialize;

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub(super) status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None }
    }

    /// The field `param` cannot be answered.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, INVALID, message) }
    }

    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// The prompt leaves no room for an answer.
    pub(super) fn too_long(prompt: usize, limit: usize) -> Self {
        let message = format!(
            "the prompt has {prompt} tokens with its image, which leaves no room for an answer within {limit}; shorten the messages"
        );
        Self { code: Some("context_length_exceeded"), ..Self::invalid("messages", message) }
    }

    pub(super) fn unknown_model(name: &str, known: &[String]) -> Self {
        let known = known.join(", ");
        Self {
            param: Some("model".into()),
            code: Some("model_not_found"),
            ..Self::new(
                StatusCode::NOT_FOUND,
                INVALID,
                format!("the model {name:?} is not served; use one of {known}"),
            )
        }
    }

    pub(super) fn unknown_path(method: &str, path: &str) -> Self {
        let message = format!(
            "{method} {path}: not served; use POST /v1/chat/completions, GET /v1/models or GET /healthz"
        );
        Self::new(StatusCode::NOT_FOUND, INVALID, message)
    }

    pub(super) fn not_json() -> Self {
        let message = "the body must be JSON; send Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message =
            format!("the body has more than {} MiB; scale the image down, or send it as JPEG", limit >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message)
    }

    pub(super) fn too_slow(seconds: u64) -> Self {
        let message = format!("the body did not arrive within {seconds} seconds; send it again");
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, message)
    }

    pub(super) fn queue_full() -> Self {
        let message = "rate limit: the queue is full; try again, with fewer requests at a time, or start the server with a larger --max-queue";
        Self {
            code: Some("rate_limit_exceeded"),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
        }
    }

    pub(super) fn stopping() -> Self {
        let message = "the server is shutting down; ask again when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message)
    }

    /// The model or the program failed, whatever the request said.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message)
    }

    pub(super) fn document(&self) -> ErrorDocument<'_> {
        ErrorDocument {
            error: ErrorBody {
                message: &self.message,
                r#type: self.kind,
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_have_the_fields_of_openai() {
        let error = ApiError::unknown_model("gpt", &["scenes".into(), "tuned".into()]);
        assert_eq!(error.status, StatusCode::NOT_FOUND);
        let expected = json!({"error": {
            "message": "the model \"gpt\" is not served; use one of scenes, tuned",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }});
        assert_eq!(serde_json::to_value(error.document()).expect("JSON"), expected);
        let error = ApiError::stopping();
        let json = serde_json::to_value(error.document()).expect("JSON");
        assert_eq!((&json["error"]["param"], &json["error"]["code"]), (&json!(null), &json!(null)));
    }
}
