//! `serve`: a model and its adapters behind the chat completions API of OpenAI.
//!
//! Requests become jobs in a bounded queue; one engine decodes the jobs of a model together. What an answer is does not
//! depend on the server: its tokens are those that `evaluate` would generate.

mod answer_text;
mod api;
mod api_error;
mod chat_request;
mod conversation;
mod engine;
mod frontend;
mod http;
mod job;
mod job_queue;
mod reply;
mod request_body;
mod server;

pub use self::api_error::ApiError;
pub use self::chat_request::ChatRequest;
pub use self::conversation::Conversation;
pub use self::server::{ServeOptions, serve};
