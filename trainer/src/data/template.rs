//! Chat templates: a conversation to the text the model reads.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value as Jinja, context};
use serde_json::Value;
use stic_contract::recipe::ChatTemplate;

use crate::data::files::{read_json, read_text};
use crate::{Error, Result};

/// Where the image stands in a rendered prompt.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// LLaVA's `conv_vicuna_v1` system line.
const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant \
     gives helpful, detailed, and polite answers to the user's questions.";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The human.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// Without `<image>`.
    pub text: String,
    /// Whether the image stands before the text.
    pub image: bool,
}

impl Turn {
    /// A user's turn without image.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, text: text.into(), image: false }
    }

    /// A user's turn that shows the image.
    #[must_use]
    pub fn user_with_image(text: impl Into<String>) -> Self {
        Self { image: true, ..Self::user(text) }
    }

    /// The model's turn.
    #[must_use]
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, text: text.into(), image: false }
    }
}

/// A conversation's wrapping.
#[derive(Debug)]
pub enum Template {
    /// `[INST] <image>\nQ [/INST] A</s>`, LLaVA's `mistral_instruct`.
    MistralInstruct,
    /// `A chat ... USER: <image>\nQ ASSISTANT: A</s>`, LLaVA's `vicuna_v1`.
    VicunaV1,
    /// The model's own.
    Jinja(Box<JinjaTemplate>),
}

/// A compiled `chat_template` and the variables it reads.
#[derive(Debug)]
pub struct JinjaTemplate {
    environment: Environment<'static>,
    /// The file, for messages.
    origin: String,
    bos_token: String,
    eos_token: String,
    /// Whether the template reads `content` as a list of parts; else it is given as text with `<image>` in it.
    parts: bool,
}

impl Template {
    /// The template `choice` asks for. [`ChatTemplate::Auto`] is the model's own, from `chat_template.jinja`,
    /// `chat_template.json` or `tokenizer_config.json`, the first that has one.
    ///
    /// # Errors
    /// [`Error::Config`] where the model has none, or one that does not compile.
    pub fn load(dir: &Path, choice: ChatTemplate) -> Result<Self> {
        match choice {
            ChatTemplate::MistralInstruct => Ok(Self::MistralInstruct),
            ChatTemplate::VicunaV1 => Ok(Self::VicunaV1),
            ChatTemplate::Auto => {
                let tokenizer = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
                let token = |name: &str| match tokenizer.get(name) {
                    Some(Value::String(token)) => token.clone(),
                    Some(Value::Object(token)) => {
                        token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned()
                    }
                    _ => String::new(),
                };
                let (origin, source) = find_source(dir, tokenizer.get("chat_template"))?;
                JinjaTemplate::new(origin, &source, token("bos_token"), token("eos_token"))
                    .map(|template| Self::Jinja(Box::new(template)))
            }
        }
    }

    /// The text up to and including the last user turn, ready for the model to answer.
    ///
    /// # Errors
    /// [`Error::Data`] where the turns do not alternate from user to user; [`Error::Config`] where the model's template
    /// fails on them.
    pub fn render_prompt(&self, turns: &[Turn]) -> Result<String> {
        check_order(turns)?;
        match self {
            Self::MistralInstruct => Ok(mistral_instruct(turns)),
            Self::VicunaV1 => Ok(vicuna_v1(turns)),
            Self::Jinja(template) => template.render(turns),
        }
    }

    /// What the template puts between the prompt of `turns`, already rendered, and its answer.
    ///
    /// A model's own template is asked by rendering one more exchange; where that does not extend the prompt, the
    /// answer follows after one space.
    pub(crate) fn answer_separator(&self, turns: &[Turn], prompt: &str) -> Result<String> {
        const PROBE: &str = "ANSWER";
        let Self::Jinja(template) = self else { return Ok(" ".into()) };
        let mut longer = turns.to_vec();
        longer.extend([Turn::assistant(PROBE), Turn::user(PROBE)]);
        let rendered = template.render(&longer).unwrap_or_default();
        let separator = rendered
            .strip_prefix(prompt)
            .and_then(|rest| rest.find(PROBE).map(|end| &rest[..end]))
            .filter(|between| between.chars().all(char::is_whitespace));
        let usual = if prompt.ends_with(char::is_whitespace) { "" } else { " " };
        Ok(separator.unwrap_or(usual).to_owned())
    }

    /// The part of `prompt` after the answer that follows `before`, the prompt rendered one exchange earlier, without
    /// the template's own end of the answer: the encoder puts the EOS there.
    ///
    /// # Errors
    /// [`Error::Config`] where the template does not write a conversation as its beginning and more.
    pub(crate) fn since_answer(&self, before: &str, answer: &str, prompt: &str) -> Result<String> {
        let end = match self {
            Self::MistralInstruct | Self::VicunaV1 => "</s>",
            Self::Jinja(template) => template.eos_token.as_str(),
        };
        let rest = prompt
            .strip_prefix(before)
            .and_then(|rest| rest.trim_start().strip_prefix(answer.trim()))
            .ok_or_else(|| {
                Error::Config(
                    "the chat template does not write a conversation turn after turn, so answers in its middle cannot \
                     be told apart; set spec.model.chatTemplate to MistralInstruct or VicunaV1"
                        .into(),
                )
            })?
            .trim_start();
        // Hub copies of LLaVA-1.6 write the literal `<\s>` where they mean the EOS.
        let ends = [end, "</s>", "<\\s>"];
        let after = ends.iter().filter(|end| !end.is_empty()).find_map(|end| rest.strip_prefix(end));
        Ok(after.map_or(rest, str::trim_start).to_owned())
    }
}

fn check_order(turns: &[Turn]) -> Result<()> {
    let alternates = turns.iter().enumerate().all(|(i, turn)| (turn.role == Role::User) == (i % 2 == 0))
        && turns.len() % 2 == 1;
    if alternates {
        return Ok(());
    }
    Err(Error::Data(
        "a conversation must alternate between user and assistant, start with the user and, as a prompt, end with the \
         user; reorder its turns"
            .into(),
    ))
}

/// `<image>\n` before the text of a turn that shows the image.
fn with_placeholder(turn: &Turn) -> String {
    if turn.image { format!("{IMAGE_PLACEHOLDER}\n{}", turn.text) } else { turn.text.clone() }
}

/// LLaVA's `SeparatorStyle.LLAMA_2` with `sep=""`, `sep2="</s>"` and no system message; the BOS is the encoder's.
fn mistral_instruct(turns: &[Turn]) -> String {
    turns
        .iter()
        .map(|turn| match turn.role {
            Role::User => format!("[INST] {} [/INST]", with_placeholder(turn)),
            Role::Assistant => format!(" {} </s>", turn.text),
        })
        .collect()
}

/// LLaVA's `SeparatorStyle.TWO` with `sep=" "`, `sep2="</s>"`.
fn vicuna_v1(turns: &[Turn]) -> String {
    let mut text = format!("{VICUNA_SYSTEM} ");
    for turn in turns {
        match turn.role {
            Role::User => text.push_str(&format!("USER: {} ", with_placeholder(turn))),
            Role::Assistant => text.push_str(&format!("ASSISTANT: {}</s>", turn.text)),
        }
    }
    text + "ASSISTANT:"
}

/// The template's text and the file it came from.
fn find_source(dir: &Path, in_tokenizer: Option<&Value>) -> Result<(String, String)> {
    let jinja = dir.join("chat_template.jinja");
    if let Some(source) = read_text(&jinja)? {
        return Ok((jinja.display().to_string(), source));
    }
    let json = dir.join("chat_template.json");
    if let Some(source) =
        read_json(&json)?.as_ref().and_then(|map| map.get("chat_template")).and_then(default_template)
    {
        return Ok((json.display().to_string(), source));
    }
    if let Some(source) = in_tokenizer.and_then(default_template) {
        return Ok((dir.join("tokenizer_config.json").display().to_string(), source));
    }
    let config = read_json(&dir.join("config.json"))?.unwrap_or_default();
    let which = match config.get("model_type").and_then(Value::as_str) {
        Some("llava_mistral" | "mistral") => "MistralInstruct (this is a Mistral)",
        Some("llava" | "llava_llama" | "llama") => "VicunaV1 (this is a Llama)",
        _ => "MistralInstruct or VicunaV1",
    };
    Err(Error::Config(format!(
        "{}: the model has no chat template: looked for chat_template.jinja, chat_template.json and chat_template in \
         tokenizer_config.json; set spec.model.chatTemplate to {which}",
        dir.display()
    )))
}

/// A template is a text, or a list of named ones of which `default` counts.
fn default_template(value: &Value) -> Option<String> {
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        Value::Object(named) => named.get("default").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

impl JinjaTemplate {
    fn new(origin: String, source: &str, bos_token: String, eos_token: String) -> Result<Self> {
        let mut environment = Environment::new();
        let broken = |error: minijinja::Error| {
            Error::Config(format!(
                "{origin}: the chat template does not compile: {error}; set spec.model.chatTemplate to MistralInstruct \
                 or VicunaV1"
            ))
        };
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        });
        let source = rewrite_generation_tags(source);
        let parts = reads_parts(&source);
        environment.add_template_owned("chat", source).map_err(broken)?;
        Ok(Self { environment, origin, bos_token, eos_token, parts })
    }

    fn render(&self, turns: &[Turn]) -> Result<String> {
        let messages: Vec<Jinja> = turns
            .iter()
            .map(|turn| {
                let role = match turn.role {
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                if self.parts {
                    context! { role, content => parts_of(turn) }
                } else {
                    context! { role, content => with_placeholder(turn) }
                }
            })
            .collect();
        self.environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt => true,
                    bos_token => self.bos_token.as_str(),
                    eos_token => self.eos_token.as_str(),
                })
            })
            .map_err(|error| {
                Error::Config(format!(
                    "{}: the chat template fails: {error}; set spec.model.chatTemplate to MistralInstruct or VicunaV1",
                    self.origin
                ))
            })
    }
}

fn parts_of(turn: &Turn) -> Vec<Jinja> {
    let image = turn.image.then(|| context! { type => "image" });
    image.into_iter().chain([context! { type => "text", text => turn.text.as_str() }]).collect()
}

/// Multimodal templates look into the parts of a message by their type; text-only ones paste `content`.
fn reads_parts(source: &str) -> bool {
    ["'type'", "\"type\"", ".type"].iter().any(|needle| source.contains(needle))
}

/// transformers' `{% generation %}` blocks mark the answer and render as their body.
fn rewrite_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let body = &tag[2..end];
        let (open, body) = body.strip_prefix(['-', '+']).map_or(("", body), |inner| (&body[..1], inner));
        let (close, body) =
            body.strip_suffix(['-', '+']).map_or(("", body), |inner| (&body[body.len() - 1..], inner));
        match body.trim() {
            "generation" => out.push_str(&format!("{{%{open} if true {close}%}}")),
            "endgeneration" => out.push_str(&format!("{{%{open} endif {close}%}}")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}
