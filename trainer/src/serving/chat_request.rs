//! The body of `POST /v1/chat/completions`. Fields that change nothing here are ignored; fields that would change the answer
//! but are not supported are refused by name.

use serde::Deserialize;
use serde_json::{Map, Value};
use stic_contract::recipe::Sampling;

use super::api_error::ApiError;

/// The most tokens of an answer, where the request does not say.
const DEFAULT_MAX_TOKENS: u64 = 1024;
/// Below this, logits that are divided by the temperature overflow; the answer is greedy long before.
const LEAST_TEMPERATURE: f64 = 1e-5;
const MOST_TEMPERATURE: f64 = 2.0;
const MOST_STOPS: usize = 16;

/// A request as a client sends it.
#[derive(Debug, Deserialize)]
pub struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    max_tokens: Option<u64>,
    /// The newer name of `max_tokens`, which it overrides.
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// Not of OpenAI, but many servers and clients have it. 0 and -1 mean all tokens.
    top_k: Option<i64>,
    seed: Option<i64>,
    stop: Option<OneOrMore>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    // Accepted with the value that changes nothing.
    n: Option<f64>,
    best_of: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    min_p: Option<f64>,
    logprobs: Option<bool>,
    logit_bias: Option<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    response_format: Option<Map<String, Value>>,
    modalities: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) role: String,
    pub(super) content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of parts, each with its type")]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    pub(super) r#type: String,
    pub(super) text: Option<String>,
    pub(super) image_url: Option<ImageUrl>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected {\"url\": \"data:...\"}")]
pub(super) enum ImageUrl {
    /// With `detail`, which is ignored: the model's own processor decides.
    Object {
        url: String,
    },
    Plain(String),
}

/// How the answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Streamed { include_usage: bool },
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let request: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            if path == "." {
                ApiError::malformed(reason)
            } else {
                ApiError::invalid(&path, format!("{path}: {reason}"))
            }
        })?;
        json.end().map_err(|error| ApiError::malformed(error.to_string()))?;
        request.refuse_unsupported()?;
        Ok(request)
    }

    /// How tokens are sampled, up to `room` of them.
    pub(super) fn sampling(&self, room: usize) -> Result<Sampling, ApiError> {
        let requested = self.max_completion_tokens.or(self.max_tokens);
        if requested == Some(0) {
            return Err(ApiError::invalid(
                "max_tokens",
                "max_tokens: 0 tokens are no answer; ask for at least 1",
            ));
        }
        let max_new_tokens = requested.unwrap_or(DEFAULT_MAX_TOKENS).min(room as u64);
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=MOST_TEMPERATURE).contains(&temperature) {
            let message =
                format!("temperature: {temperature} is not between 0 and {MOST_TEMPERATURE}; 0 is greedy");
            return Err(ApiError::invalid("temperature", message));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&top_p) {
            return Err(ApiError::invalid(
                "top_p",
                format!("top_p: {top_p} is not between 0 and 1; 1 keeps all tokens"),
            ));
        }
        let top_k = self.top_k.filter(|top_k| *top_k != -1).unwrap_or(0);
        let top_k = u32::try_from(top_k).map_err(|_| {
            ApiError::invalid("top_k", format!("top_k: {top_k} is no number of tokens; 0 keeps all"))
        })?;
        Ok(Sampling {
            temperature: if temperature < LEAST_TEMPERATURE { 0.0 } else { temperature },
            top_p,
            top_k,
            max_new_tokens: u32::try_from(max_new_tokens).unwrap_or(u32::MAX),
        })
    }

    pub(super) const fn seed(&self) -> Option<u64> {
        match self.seed {
            Some(seed) => Some(seed.cast_unsigned()),
            None => None,
        }
    }

    /// The strings before which the answer ends.
    pub(super) fn stops(&mut self) -> Result<Vec<String>, ApiError> {
        let stops = match self.stop.take() {
            None => Vec::new(),
            Some(OneOrMore::One(stop)) => vec![stop],
            Some(OneOrMore::More(stops)) => stops,
        };
        if stops.iter().any(String::is_empty) || stops.len() > MOST_STOPS {
            let message = format!("stop: expected at most {MOST_STOPS} strings, none of them empty");
            return Err(ApiError::invalid("stop", message));
        }
        Ok(stops)
    }

    pub(super) fn delivery(&self) -> Delivery {
        if !self.stream.unwrap_or(false) {
            return Delivery::Whole;
        }
        let include_usage = self.stream_options.as_ref().and_then(|options| options.include_usage);
        Delivery::Streamed { include_usage: include_usage.unwrap_or(false) }
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let differs = |value: Option<f64>, neutral: f64| value.is_some_and(|value| value != neutral);
        let any = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let format = self.response_format.as_ref().and_then(|format| format.get("type"));
        let refused = [
            ("n", differs(self.n, 1.0), "one answer to a request; send the request again with another seed"),
            ("best_of", differs(self.best_of, 1.0), "one answer to a request"),
            ("frequency_penalty", differs(self.frequency_penalty, 0.0), "no penalties; leave it out"),
            ("presence_penalty", differs(self.presence_penalty, 0.0), "no penalties; leave it out"),
            ("repetition_penalty", differs(self.repetition_penalty, 1.0), "no penalties; leave it out"),
            ("min_p", differs(self.min_p, 0.0), "top_p and top_k only"),
            (
                "logprobs",
                self.logprobs == Some(true),
                "answers only; use stic-trainer score for log-probabilities",
            ),
            (
                "logit_bias",
                self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()),
                "no biases; leave it out",
            ),
            ("tools", any(&self.tools), "no tools; leave it out"),
            ("functions", any(&self.functions), "no functions; leave it out"),
            ("response_format", format.is_some_and(|format| format != "text"), "text only; leave it out"),
            (
                "modalities",
                self.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")),
                "text only; leave it out",
            ),
        ];
        match refused.into_iter().find(|(_, refused, _)| *refused) {
            Some((field, _, what)) => {
                Err(ApiError::invalid(field, format!("{field} is not supported: this server gives {what}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(fields: Value) -> Result<ChatRequest, String> {
        let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "?"}]});
        body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        ChatRequest::parse(body.to_string().as_bytes()).map_err(message)
    }

    fn message(error: ApiError) -> String {
        let json = serde_json::to_value(error.document()).expect("JSON");
        json["error"]["message"].as_str().expect("a text").to_owned()
    }

    fn sampling(fields: Value, room: usize) -> Result<Sampling, String> {
        parse(fields)?.sampling(room).map_err(message)
    }

    #[test]
    fn silence_means_what_it_means_to_openai_and_a_null_is_silence() {
        let expected = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, max_new_tokens: 1024 };
        assert_eq!(sampling(json!({}), 5000), Ok(expected));
        let nulls = json!({"temperature": null, "top_p": null, "max_tokens": null, "stop": null, "n": null, "tools": null,
            "stream": null, "seed": null, "logprobs": null, "response_format": null});
        assert_eq!(sampling(nulls.clone(), 5000), Ok(expected));
        let mut request = parse(nulls).expect("valid");
        assert_eq!(
            (request.seed(), request.stops(), request.delivery()),
            (None, Ok(vec![]), Delivery::Whole)
        );
    }

    #[test]
    fn the_answer_is_as_long_as_requested_and_as_there_is_room_for() {
        let longest = |fields, room| sampling(fields, room).expect("valid").max_new_tokens;
        assert_eq!(longest(json!({"max_tokens": 16}), 100), 16);
        assert_eq!(longest(json!({"max_tokens": 16, "max_completion_tokens": 20}), 100), 20);
        assert_eq!(longest(json!({"max_tokens": 1_000_000_000_000_u64}), 100), 100);
        assert_eq!(longest(json!({}), 100), 100);
    }

    #[test]
    fn values_are_checked() {
        let greedy =
            sampling(json!({"temperature": 0, "top_p": 0.5, "top_k": -1, "seed": -1}), 9).expect("valid");
        assert_eq!(greedy, Sampling { temperature: 0.0, top_p: 0.5, top_k: 0, max_new_tokens: 9 });
        assert_eq!(sampling(json!({"temperature": 1e-40}), 9).expect("valid").temperature, 0.0);
        for (fields, expected) in [
            (json!({"temperature": -1}), "temperature: -1 is not between"),
            (json!({"temperature": 2.5}), "temperature: 2.5 is not between"),
            (json!({"temperature": "0"}), "temperature: invalid type"),
            (json!({"top_p": 1.5}), "top_p: 1.5 is not between"),
            (json!({"top_k": -2}), "top_k: -2 is no number"),
            (json!({"max_tokens": 0}), "max_tokens: 0 tokens are no answer"),
            (json!({"max_tokens": -5}), "max_tokens: invalid value"),
            (json!({"messages": null}), "messages: invalid type"),
        ] {
            let error = sampling(fields, 9).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
        for stop in [json!(""), json!(["a", ""]), json!(vec!["a"; 17])] {
            assert!(parse(json!({ "stop": stop })).expect("valid").stops().is_err());
        }
        assert_eq!(parse(json!({"stop": "a"})).expect("valid").stops(), Ok(vec!["a".to_owned()]));
    }

    #[test]
    fn what_would_change_the_answer_is_refused_and_the_rest_ignored() {
        for fields in [
            json!({"n": 2}),
            json!({"frequency_penalty": 0.5}),
            json!({"logprobs": true}),
            json!({"tools": [{}]}),
            json!({"response_format": {"type": "json_object"}}),
            json!({"modalities": ["text", "audio"]}),
        ] {
            let field = fields.as_object().expect("an object").keys().next().expect("a field").clone();
            let error = parse(fields).expect_err(&field);
            assert!(error.starts_with(&format!("{field} is not supported")), "{error}");
        }
        let harmless = json!({"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": false, "tools": [],
            "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"], "user": "me",
            "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}, "logit_bias": {},
            "media_io_kwargs": {"video": {"num_frames": 10}}, "top_logprobs": null, "repetition_penalty": 1.0});
        assert!(parse(harmless).is_ok());
    }

    #[test]
    fn streaming_is_a_choice() {
        let delivery = |fields| parse(fields).expect("valid").delivery();
        assert_eq!(delivery(json!({"stream": true})), Delivery::Streamed { include_usage: false });
        let options = json!({"stream": true, "stream_options": {"include_usage": true, "other": 1}});
        assert_eq!(delivery(options), Delivery::Streamed { include_usage: true });
        assert_eq!(delivery(json!({"stream": false, "stream_options": null})), Delivery::Whole);
    }

    #[test]
    fn a_body_that_is_no_request_is_an_error() {
        for body in ["", "{", "[]", "{\"model\": \"base\"}", "{\"model\": \"base\", \"messages\": []} x"] {
            assert!(ChatRequest::parse(body.as_bytes()).is_err(), "{body:?}");
        }
    }
}
