//! From messages to the turns and the image that the model reads.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::api_error::ApiError;
use super::chat_request::{ChatRequest, Content, ImageUrl, Message, Part};
use crate::data::template::{Role, Turn};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The first shows the image, if there is one, whatever message it was in: that is how LLaVA was trained.
    pub turns: Vec<Turn>,
    /// The bytes of the image file, and the field they came from.
    pub image: Option<(String, Vec<u8>)>,
}

impl Conversation {
    /// Takes the messages of a request. Several texts of a message are lines.
    ///
    /// # Errors
    /// 400 with the path of the message or part that cannot be read.
    pub fn of(request: &mut ChatRequest) -> Result<Self, ApiError> {
        let mut conversation = Self { turns: Vec::new(), image: None };
        for (number, message) in std::mem::take(&mut request.messages).into_iter().enumerate() {
            conversation.push(&format!("messages[{number}]"), message)?;
        }
        match conversation.turns.first_mut() {
            Some(first) => first.image = conversation.image.is_some(),
            None => {
                return Err(ApiError::invalid(
                    "messages",
                    "messages: there is none; send the user's question",
                ));
            }
        }
        Ok(conversation)
    }

    fn push(&mut self, place: &str, Message { role, content }: Message) -> Result<(), ApiError> {
        let role = match role.as_str() {
            "user" => Some(Role::User),
            "assistant" => Some(Role::Assistant),
            "system" | "developer" => None,
            other => {
                let message = format!("{place}.role: {other:?} is not supported; use user or assistant");
                return Err(ApiError::invalid(format!("{place}.role"), message));
            }
        };
        let text = match content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => self.read_parts(place, role == Some(Role::User), parts)?,
        };
        match role {
            Some(role) => self.turns.push(Turn { role, text, image: false }),
            None if text.trim().is_empty() => {}
            None => {
                let message = format!(
                    "{place}: the chat templates of LLaVA have no place for a system message; put its text in front of the first user message"
                );
                return Err(ApiError::invalid(place, message));
            }
        }
        Ok(())
    }

    /// The text of a message, whose image is kept.
    fn read_parts(&mut self, place: &str, may_show: bool, parts: Vec<Part>) -> Result<String, ApiError> {
        let mut texts = Vec::new();
        for (number, Part { r#type, text, image_url }) in parts.into_iter().enumerate() {
            let place = format!("{place}.content[{number}]");
            match (r#type.as_str(), text, image_url) {
                ("text", Some(text), _) => texts.push(text),
                ("image_url", _, Some(ImageUrl::Object { url } | ImageUrl::Plain(url))) => {
                    self.keep_image(format!("{place}.image_url"), may_show, &url)?;
                }
                (kind @ ("text" | "image_url"), _, _) => {
                    let message = format!("{place}: field {kind} is missing; add it");
                    return Err(ApiError::invalid(place, message));
                }
                (kind, _, _) => {
                    let message =
                        format!("{place}: parts of type {kind:?} are not supported; use text and image_url");
                    return Err(ApiError::invalid(place, message));
                }
            }
        }
        Ok(texts.join("\n"))
    }

    fn keep_image(&mut self, place: String, may_show: bool, url: &str) -> Result<(), ApiError> {
        let refuse = |reason: &str| ApiError::invalid(&place, format!("{place}: {reason}"));
        if !may_show {
            return Err(refuse("only a user's message shows an image; move it there"));
        }
        if self.image.is_some() {
            return Err(refuse("this model takes one image in a conversation; leave out the others"));
        }
        let bytes = decode_data_uri(url).map_err(|reason| refuse(&reason))?;
        self.image = Some((place, bytes));
        Ok(())
    }
}

/// The bytes of `data:TYPE;base64,DATA`. The type is ignored: the content decides.
fn decode_data_uri(uri: &str) -> Result<Vec<u8>, String> {
    const HOW: &str = "pass the image itself, as data:image/jpeg;base64,...";
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    if !scheme.eq_ignore_ascii_case("data") {
        return Err(format!("the server opens no connections and no files; {HOW}"));
    }
    let (header, data) = uri.split_once(',').ok_or_else(|| format!("the data URI has no comma; {HOW}"))?;
    if !header.to_ascii_lowercase().ends_with(";base64") {
        return Err(format!("the data URI is not base64; {HOW}"));
    }
    BASE64
        .decode(data.trim())
        .map_err(|error| format!("the base64 is broken ({error}); encode the image again"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(messages: Value) -> Result<Conversation, String> {
        let body = json!({"model": "base", "messages": messages}).to_string();
        let message = |error: ApiError| {
            serde_json::to_value(error.document()).expect("JSON")["error"]["message"]
                .as_str()
                .expect("a text")
                .to_owned()
        };
        let mut request = ChatRequest::parse(body.as_bytes()).map_err(message)?;
        Conversation::of(&mut request).map_err(message)
    }

    fn image(url: &str) -> Value {
        json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    }

    #[test]
    fn the_image_is_shown_first_wherever_it_stands() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let picture = image("data:image/png;base64,AQID");
        let shown = Conversation {
            turns: vec![
                Turn::user_with_image("What?\nWhere?"),
                Turn::assistant("A cat."),
                Turn::user("Why?"),
            ],
            image: None,
        };
        for (first, last) in [
            (json!([picture, text("What?"), text("Where?")]), json!("Why?")),
            (json!([text("What?"), picture, text("Where?")]), json!([text("Why?")])),
            (
                json!("What?\nWhere?"),
                json!([text("Why?"), {"type": "image_url", "image_url": "data:;base64,AQID"}]),
            ),
        ] {
            let read = read(json!([
                {"role": "system", "content": ""},
                {"role": "user", "content": first, "name": "someone"},
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": last},
            ]))
            .expect("a conversation");
            assert_eq!(read.turns, shown.turns);
            assert_eq!(read.image.expect("an image").1, [1, 2, 3]);
        }
        let unshown = read(json!([{"role": "user", "content": "What?"}])).expect("a conversation");
        assert_eq!(unshown, Conversation { turns: vec![Turn::user("What?")], image: None });
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let user = |parts: Value| json!([{"role": "user", "content": parts}]);
        let good = image("data:image/png;base64,AQID");
        for (messages, expected) in [
            (json!([]), "messages: there is none"),
            (
                json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]),
                "messages[0]: the chat templates",
            ),
            (json!([{"role": "tool", "content": "?"}]), "messages[0].role: \"tool\""),
            (json!([{"role": "user", "content": 3}]), "messages[0].content: expected a string or a list"),
            (user(json!([{"type": "text"}])), "messages[0].content[0]: field text is missing"),
            (
                user(json!([{"type": "input_audio", "input_audio": {}}])),
                "messages[0].content[0]: parts of type \"input_audio\"",
            ),
            (user(json!([good, good])), "messages[0].content[1].image_url: this model takes one image"),
            (
                json!([{"role": "assistant", "content": [good]}]),
                "messages[0].content[0].image_url: only a user's",
            ),
            (
                user(json!([image("https://example.org/a.png")])),
                "messages[0].content[0].image_url: the server opens no connections",
            ),
            (
                user(json!([image("/etc/passwd")])),
                "messages[0].content[0].image_url: the server opens no connections and no files",
            ),
            (
                user(json!([image("data:image/png;base64")])),
                "messages[0].content[0].image_url: the data URI has no comma",
            ),
            (
                user(json!([image("data:image/png,AQID")])),
                "messages[0].content[0].image_url: the data URI is not base64",
            ),
            (
                user(json!([image("data:image/png;base64,A?")])),
                "messages[0].content[0].image_url: the base64 is broken",
            ),
        ] {
            let error = read(messages).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
