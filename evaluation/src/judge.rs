//! The exchange with a judge as a pure state machine: given an answer and the replies so far, what to ask next.
//!
//! # The judge's prompt
//!
//! The published prompts are not part of this program; a user supplies the prompt as a file. Its text is the user message,
//! with `{{name}}` where a value goes. Each benchmark says which names there are, and every one of them must occur:
//!
//! | benchmark | placeholders |
//! |---|---|
//! | MathVista | `{{query}}`, `{{answer}}` |
//! | LLaVA-Bench | `{{context}}`, `{{question}}`, `{{reference}}`, `{{answer}}` |
//! | MM-Vet | `{{question}}`, `{{reference}}`, `{{answer}}` |
//! | HallusionBench | `{{question}}`, `{{reference}}`, `{{answer}}` |
//!
//! A file that begins with the line `--- system ---` holds a system message, up to the line `--- user ---`, with which the
//! user message begins. One line break before `--- user ---` and at the end of the file belongs to neither message. Any other
//! text is sent as it is, braces included.

use serde::{Deserialize, Serialize};

const SYSTEM_LINE: &str = "--- system ---";
const USER_LINE: &str = "--- user ---";

/// What is wrong with a judge's prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the judge's prompt has no {{{{{missing}}}}}. Put {{{{{missing}}}}} where that value goes.")]
    Missing { missing: &'static str },
    #[error("the judge's prompt has the unknown placeholder {{{{{unknown}}}}}. Use only {known}.")]
    Unknown { unknown: String, known: String },
    #[error(
        "the judge's prompt begins with `{SYSTEM_LINE}` but has no line `{USER_LINE}`. Add it before the user message."
    )]
    NoUserMessage,
}

/// A prompt that was read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    system: Option<Vec<Part>>,
    user: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(&'static str),
}

impl Template {
    /// Reads a prompt in which each of `placeholders` must occur, and no other. See the module for the format.
    ///
    /// # Errors
    /// [`TemplateError`] naming the placeholder.
    pub fn parse(text: &str, placeholders: &'static [&'static str]) -> Result<Self, TemplateError> {
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        let (system, user) = match split_first_line(text) {
            (SYSTEM_LINE, rest) => {
                let (system, user) = split_at_line(rest, USER_LINE).ok_or(TemplateError::NoUserMessage)?;
                (Some(parts(system, placeholders)?), user)
            }
            _ => (None, text),
        };
        let user = parts(user, placeholders)?;
        let used = |name| system.iter().flatten().chain(&user).any(|part| *part == Part::Value(name));
        match placeholders.iter().find(|name| !used(name)) {
            Some(missing) => Err(TemplateError::Missing { missing }),
            None => Ok(Self { system, user }),
        }
    }

    /// The messages with `values` in place of the placeholders, and `suffix` at the end of the user message. A value is never
    /// searched for placeholders. A placeholder without a value stays empty.
    #[must_use]
    pub fn messages(&self, values: &[(&str, &str)], suffix: &str) -> Vec<Message> {
        let fill = |parts: &[Part]| -> String {
            parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.as_str(),
                    Part::Value(name) => {
                        values.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
                    }
                })
                .collect()
        };
        let system = self.system.as_deref().map(|parts| Message { role: Role::System, content: fill(parts) });
        let user = Message { role: Role::User, content: fill(&self.user) + suffix };
        system.into_iter().chain([user]).collect()
    }
}

/// The first line without its line break, and the rest.
fn split_first_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line), rest)
}

/// What is before and after the first line that is `line`; the line break before it belongs to neither.
fn split_at_line<'a>(text: &'a str, line: &str) -> Option<(&'a str, &'a str)> {
    let mut start = 0;
    for candidate in text.split_inclusive('\n') {
        if candidate.trim_end_matches(['\r', '\n']) == line {
            let before = text.get(..start)?;
            let before = before.strip_suffix('\n').unwrap_or(before);
            return Some((before.strip_suffix('\r').unwrap_or(before), text.get(start + candidate.len()..)?));
        }
        start += candidate.len();
    }
    None
}

fn parts(text: &str, placeholders: &'static [&'static str]) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        literal.push_str(before);
        let Some((name, tail)) = after.split_once("}}").filter(|(name, _)| is_name(name)) else {
            literal.push_str("{{");
            rest = after;
            continue;
        };
        let Some(known) = placeholders.iter().find(|known| **known == name.trim()) else {
            let known =
                placeholders.iter().map(|name| format!("{{{{{name}}}}}")).collect::<Vec<_>>().join(", ");
            return Err(TemplateError::Unknown { unknown: name.trim().to_owned(), known });
        };
        parts.push(Part::Text(std::mem::take(&mut literal)));
        parts.push(Part::Value(known));
        rest = tail;
    }
    literal.push_str(rest);
    parts.push(Part::Text(literal));
    Ok(parts)
}

/// Whether what is between braces is meant as a placeholder, and not as mathematics or JSON.
fn is_name(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.chars().all(|char| char.is_ascii_lowercase() || char == '_')
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// A request to the judge; as JSON it is the body of an OpenAI-compatible chat completion, without the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub messages: Vec<Message>,
    pub temperature: f64,
    pub max_tokens: u32,
}

/// Where the exchange about one answer stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<V, R = Request> {
    /// Send this, and come back with one more reply.
    Ask(R),
    Decided(V),
    /// The judge had all its tries. The answer has no score.
    Failed,
}

impl<V, R> Step<V, R> {
    /// The same step with its request made into another one.
    pub fn map_request<S>(self, request: impl FnOnce(R) -> S) -> Step<V, S> {
        match self {
            Self::Ask(inner) => Step::Ask(request(inner)),
            Self::Decided(verdict) => Step::Decided(verdict),
            Self::Failed => Step::Failed,
        }
    }

    /// The same step with its verdict made into another one.
    pub fn map_verdict<W>(self, verdict: impl FnOnce(V) -> W) -> Step<W, R> {
        match self {
            Self::Ask(request) => Step::Ask(request),
            Self::Decided(inner) => Step::Decided(verdict(inner)),
            Self::Failed => Step::Failed,
        }
    }

    /// What was decided, if anything was.
    pub fn verdict(self) -> Option<V> {
        match self {
            Self::Decided(verdict) => Some(verdict),
            Self::Ask(_) | Self::Failed => None,
        }
    }
}

/// What a judge decided about an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// MM-Vet: between 0 and 1.
    Score(f64),
    /// LLaVA-Bench: of the reference answer and of the model's.
    Scores { reference: f64, model: f64 },
    /// MathVista: the answer that it found in the response.
    Extraction(String),
    /// HallusionBench.
    Correctness(Correctness),
}

/// Whether a judge found an answer to agree with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correctness {
    Correct,
    Incorrect,
    Unclear,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["question", "answer"];

    fn user(content: &str) -> Message {
        Message { role: Role::User, content: content.to_owned() }
    }

    #[test]
    fn values_replace_placeholders_once() {
        let template = Template::parse("Q: {{question}}\nA: {{ answer }}|{{question}}\n", NAMES).unwrap();
        let messages = template.messages(&[("question", "{{answer}}?"), ("answer", "{{question}}")], " End");
        assert_eq!(messages, [user("Q: {{answer}}?\nA: {{question}}|{{answer}}? End")]);
    }

    #[test]
    fn a_system_message_is_split_off() {
        let template = Template::parse(
            "--- system ---\r\nBe {{x1}} fair.\r\n--- user ---\r\n{{question}}{{answer}}\r\n",
            NAMES,
        )
        .unwrap();
        let messages = template.messages(&[("question", "q"), ("answer", "a")], "");
        assert_eq!(
            messages,
            [Message { role: Role::System, content: "Be {{x1}} fair.".to_owned() }, user("qa")]
        );
        assert_eq!(
            Template::parse("--- system ---\n{{question}}{{answer}}", NAMES),
            Err(TemplateError::NoUserMessage)
        );
    }

    #[test]
    fn only_one_final_line_break_is_dropped() {
        let template = Template::parse("{{question}}{{answer}}\n\n", NAMES).unwrap();
        assert_eq!(template.messages(&[], ""), [user("\n")]);
    }

    #[test]
    fn messages_name_the_placeholder() {
        let message = |text| Template::parse(text, NAMES).unwrap_err().to_string();
        assert_eq!(
            message("{{question}}"),
            "the judge's prompt has no {{answer}}. Put {{answer}} where that value goes."
        );
        assert_eq!(
            message("{{question}} {{answer}} {{reply}}"),
            "the judge's prompt has the unknown placeholder {{reply}}. Use only {{question}}, {{answer}}."
        );
    }

    #[test]
    fn a_request_is_the_body_of_a_chat_completion() {
        let request = Request { messages: vec![user("Hi")], temperature: 0.5, max_tokens: 3 };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"messages":[{"role":"user","content":"Hi"}],"temperature":0.5,"max_tokens":3}"#
        );
    }

    proptest! {
        #[test]
        fn text_without_placeholders_is_sent_verbatim(before in "[^{}]*", braces in "(\\{\\{[0-9A-Z ]*\\}\\}|\\{+|\\}+)?") {
            let text = format!("{before}{braces}.");
            let template = Template::parse(&text, &[]).unwrap();
            prop_assert_eq!(template.messages(&[], ""), [user(&text)]);
        }
    }
}
