//! The documents that the server answers with.

use serde::Serialize;

/// The answer to `POST /v1/chat/completions` as a whole.
#[derive(Debug, Serialize)]
pub(super) struct Completion<'a> {
    #[serde(flatten)]
    pub(super) head: Head<'a>,
    pub(super) choices: [Choice<'a>; 1],
    pub(super) usage: Usage,
}

/// A part of a streamed answer.
#[derive(Debug, Serialize)]
pub(super) struct Chunk<'a> {
    #[serde(flatten)]
    pub(super) head: Head<'a>,
    /// None in the chunk of the usage.
    pub(super) choices: Vec<ChunkChoice<'a>>,
    /// Present, but null before the last chunk, where the client asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

/// What an answer and each of its chunks begin with.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Head<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    /// In seconds since 1970.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) system_fingerprint: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Choice<'a> {
    pub(super) index: u32,
    pub(super) message: AnswerMessage<'a>,
    /// Always null.
    pub(super) logprobs: (),
    pub(super) finish_reason: FinishReason,
}

#[derive(Debug, Serialize)]
pub(super) struct AnswerMessage<'a> {
    pub(super) role: &'static str,
    pub(super) content: &'a str,
    /// Always null.
    pub(super) refusal: (),
}

#[derive(Debug, Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: u32,
    pub(super) delta: Delta<'a>,
    /// Always null.
    pub(super) logprobs: (),
    pub(super) finish_reason: Option<FinishReason>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinishReason {
    /// At an end of sequence, or before a stop string.
    Stop,
    /// At the most tokens that were requested, or that there is room for.
    Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    /// Those of the image included.
    pub(super) prompt_tokens: usize,
    /// The end of sequence included.
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
}

impl Usage {
    pub(super) const fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// The answer to `GET /v1/models`.
#[derive(Debug, Serialize)]
pub(super) struct ModelList<'a> {
    pub(super) object: &'static str,
    pub(super) data: Vec<ModelEntry<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct ModelEntry<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) owned_by: &'static str,
    /// The base model of an adapter.
    pub(super) parent: Option<&'a str>,
}

impl<'a> ModelList<'a> {
    /// The base model first, then its adapters.
    pub(super) fn of(names: &'a [String], created: u64) -> Self {
        let base = names.first().map(String::as_str);
        let entry = |(number, id): (usize, &'a String)| ModelEntry {
            id,
            object: "model",
            created,
            owned_by: "stic-trainer",
            parent: base.filter(|_| number > 0),
        };
        Self { object: "list", data: names.iter().enumerate().map(entry).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: Head<'_> = Head {
        id: "chatcmpl-1",
        object: "chat.completion",
        created: 7,
        model: "base",
        system_fingerprint: "f",
    };

    #[test]
    fn an_answer_has_the_fields_of_openai() {
        let completion = Completion {
            head: HEAD,
            choices: [Choice {
                index: 0,
                message: AnswerMessage { role: "assistant", content: "A cat.", refusal: () },
                logprobs: (),
                finish_reason: FinishReason::Stop,
            }],
            usage: Usage::new(10, 3),
        };
        let expected = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "base", "system_fingerprint": "f",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "A cat.", "refusal": null},
                "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        });
        assert_eq!(serde_json::to_value(completion).expect("JSON"), expected);
    }

    #[test]
    fn a_chunk_mentions_the_usage_only_where_it_was_requested() {
        let chunk = |delta, usage| {
            let choice = ChunkChoice { index: 0, delta, logprobs: (), finish_reason: None };
            serde_json::to_value(Chunk { head: HEAD, choices: vec![choice], usage }).expect("JSON")
        };
        let content = chunk(Delta { role: None, content: Some("A") }, None);
        assert_eq!(content["choices"][0]["delta"], json!({"content": "A"}));
        assert_eq!(content["choices"][0]["finish_reason"], json!(null));
        assert!(content.get("usage").is_none());
        assert_eq!(chunk(Delta::default(), Some(None)).get("usage"), Some(&json!(null)));
        assert_eq!(chunk(Delta::default(), Some(Some(Usage::new(1, 1))))["usage"]["total_tokens"], 2);
    }

    #[test]
    fn adapters_are_listed_after_their_base_model() {
        let names = ["scenes-llava".to_owned(), "tuned".to_owned()];
        let list = serde_json::to_value(ModelList::of(&names, 7)).expect("JSON");
        assert_eq!(list["object"], "list");
        assert_eq!(
            (&list["data"][0]["id"], &list["data"][0]["parent"]),
            (&json!("scenes-llava"), &json!(null))
        );
        assert_eq!(
            (&list["data"][1]["id"], &list["data"][1]["parent"]),
            (&json!("tuned"), &json!("scenes-llava"))
        );
        assert_eq!(list["data"][1]["object"], "model");
    }
}
