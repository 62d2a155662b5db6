//! Preference pairs that a user brings.

use serde::Deserialize;

use super::image_field::ImageField;
use super::row_problem::{self, RowProblem, deserialize_id};
use super::rows::Row;
use super::template::{IMAGE_PLACEHOLDER, strip_image_placeholder};

/// The fields that tell a pair from an object around all pairs.
pub const FIELDS: &[&str] = &["id", "image", "prompt", "chosen", "rejected"];

/// One pair of a preference file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencePair {
    /// The image's path if the pair has none of its own.
    pub id: String,
    /// The path of the image in the image folder.
    pub image: String,
    /// The question, without `<image>`.
    pub prompt: String,
    /// The preferred answer.
    pub chosen: String,
    /// The other answer.
    pub rejected: String,
}

/// A pair as it stands in the file; other fields are ignored.
#[derive(Deserialize)]
#[serde(expecting = "an object with image, chosen and rejected")]
struct RawPair {
    #[serde(default, deserialize_with = "some_id")]
    id: Option<String>,
    image: ImageField,
    #[serde(default)]
    prompt: Option<String>,
    chosen: Response,
    rejected: Response,
}

/// A response alone, or after its prompt, as STIC's released code writes it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a response must be a text, or a list of a user's and an assistant's message")]
enum Response {
    Text(String),
    Messages(Vec<Message>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn some_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserialize_id(deserializer).map(Some)
}

/// The id of a pair, `None` where it cannot be read.
#[must_use]
pub fn id(row: &Row<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default, deserialize_with = "some_id")]
        id: Option<String>,
        #[serde(default)]
        image: Option<ImageField>,
    }
    let head: Head = serde_json::from_slice(row.bytes).ok()?;
    let image = head.image.and_then(|image| image.path().ok()).filter(|path| !path.is_empty());
    head.id.filter(|id| !id.is_empty()).or(image)
}

/// Reads and checks a pair: `{id, image, prompt, chosen, rejected}`, or without a prompt where both responses are lists
/// of messages.
///
/// # Errors
/// [`RowProblem`] naming the field.
pub fn parse(row: &Row<'_>) -> Result<PreferencePair, RowProblem> {
    let raw = row_problem::parse::<RawPair>(row)?;
    pair(raw).map_err(|reason| RowProblem::new(row, reason))
}

/// The prompt, if it is in the messages, and the response.
fn response(field: &str, response: Response) -> Result<(Option<String>, String), String> {
    let messages = match response {
        Response::Text(text) => return Ok((None, text)),
        Response::Messages(messages) => messages,
    };
    match <[Message; 2]>::try_from(messages) {
        Ok([prompt, answer]) if prompt.role == "user" && answer.role == "assistant" => {
            Ok((Some(prompt.content), answer.content))
        }
        Ok([prompt, answer]) => Err(format!(
            "{field} has messages of {:?} and {:?}; give one of user, then one of assistant",
            prompt.role, answer.role
        )),
        Err(messages) => {
            Err(format!("{field} has {} messages; give one of user, then one of assistant", messages.len()))
        }
    }
}

fn pair(raw: RawPair) -> Result<PreferencePair, String> {
    let RawPair { id, image, prompt, chosen, rejected } = raw;
    let image = image.path()?;
    if image.is_empty() {
        return Err("image is empty; give its path, or remove the pair".into());
    }
    let id = id.unwrap_or_else(|| image.clone());
    if id.is_empty() {
        return Err("id is empty; give each pair an id".into());
    }
    let (chosen_prompt, chosen) = response("chosen", chosen)?;
    let (rejected_prompt, rejected) = response("rejected", rejected)?;
    let mut prompts = [prompt, chosen_prompt, rejected_prompt].into_iter().flatten();
    let prompt =
        prompts.next().ok_or("missing field `prompt`; give the question that both responses answer")?;
    if prompts.any(|other| other != prompt) {
        return Err("chosen and rejected answer different prompts; give both the same one".into());
    }
    let prompt = strip_image_placeholder(&prompt);
    if prompt.contains(IMAGE_PLACEHOLDER) {
        return Err(format!(
            "prompt holds {IMAGE_PLACEHOLDER} more than once: an item shows one image; remove the others"
        ));
    }
    for (field, text) in [("prompt", &prompt), ("chosen", &chosen), ("rejected", &rejected)] {
        if text.trim().is_empty() {
            return Err(format!("{field} is empty; give its text or remove the pair"));
        }
    }
    for (field, text) in [("chosen", &chosen), ("rejected", &rejected)] {
        if text.contains(IMAGE_PLACEHOLDER) {
            return Err(format!("{field} holds {IMAGE_PLACEHOLDER}, which stands for the image; remove it"));
        }
    }
    Ok(PreferencePair { id, image, prompt, chosen, rejected })
}

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::*;

    fn pairs(text: &str) -> Result<Vec<PreferencePair>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let read = rows::for_each(&path, FIELDS, |row| {
            let pair = parse(&row).map_err(|problem| problem.into_error(&path))?;
            assert_eq!(id(&row).as_ref(), Some(&pair.id));
            found.push(pair);
            Ok(())
        });
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(found)
    }

    #[test]
    fn pairs_are_read_and_checked() {
        let good = r#"{"id":"p","image":"a.jpg","prompt":"<image>\nQ","chosen":"yes","rejected":"no"}"#;
        let read = pairs(good).unwrap();
        assert_eq!(read[0].prompt, "Q");
        assert_eq!(pairs(&format!("[\n{good}\n]")).unwrap(), read);
        assert_eq!(pairs(&format!("{{\"data\": [{good}]}}")).unwrap(), read);
        for (text, expected) in [
            (good.replace("yes", " "), "data.json:1: chosen is empty"),
            (good.replace("Q", "<im<image>age>"), "data.json:1: prompt holds <image> more than once"),
            (
                good.replace("<image>\\nQ", "<im<image>age>"),
                "data.json:1: prompt holds <image> more than once",
            ),
            (good.replace("no", "<image>"), "data.json:1: rejected holds <image>"),
            (good.replace("\"a.jpg\"", "\"\""), "data.json:1: image is empty"),
            (good.replace("\"prompt\"", "\"question\""), "data.json:1: missing field `prompt`"),
        ] {
            let message = pairs(&text).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn the_pairs_of_the_released_code_are_read() {
        let messages = |prompt: &str, answer: &str| {
            format!(r#"[{{"role":"user","content":"{prompt}"}},{{"role":"assistant","content":"{answer}"}}]"#)
        };
        let released = |chosen: &str, rejected: &str| {
            format!(
                r#"{{"image": "a.jpg", "image_corruption": false, "hallu_prompt": "", "chosen": {chosen}, "rejected": {rejected}}}"#
            )
        };
        let read = pairs(&format!("[{}]", released(&messages("Q", "yes"), &messages("Q", "no")))).unwrap();
        let expected = ["a.jpg", "a.jpg", "Q", "yes", "no"].map(str::to_owned);
        let [id, image, prompt, chosen, rejected] = expected;
        assert_eq!(read, [PreferencePair { id, image, prompt, chosen, rejected }]);
        for (rejected, expected) in [
            (messages("R", "no"), "data.json:1: chosen and rejected answer different prompts"),
            ("[]".into(), "data.json:1: rejected has 0 messages"),
            (
                messages("Q", "no").replace("user", "system"),
                "data.json:1: rejected has messages of \"system\"",
            ),
        ] {
            let message = pairs(&released(&messages("Q", "yes"), &rejected)).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
