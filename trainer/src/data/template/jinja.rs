//! A model's own chat template: where its source is found, and how it is rendered as transformers renders it.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value as Jinja, context};
use serde_json::Value;

use super::turn::{Role, Turn};
use crate::data::files::{CONFIG_FILE, read_json, read_text};
use crate::{Error, Result};

/// Instructions that rendering one conversation may take. A long conversation takes some thousands, and a template that
/// loops for ever must end with an error.
const FUEL: u64 = 10_000_000;

/// A compiled `chat_template` and the variables it reads.
#[derive(Debug)]
pub struct JinjaTemplate {
    environment: Environment<'static>,
    /// The file of the template, for messages.
    origin: String,
    bos_token: String,
    eos_token: String,
    /// Whether the template reads `content` as a list of parts. If not, `content` is text with `<image>` in it.
    reads_parts: bool,
}

impl JinjaTemplate {
    /// The template of the model in `dir`, from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`,
    /// the first that has one.
    ///
    /// # Errors
    /// [`Error::Config`] where the model has no template, or one that does not compile.
    pub(super) fn from_dir(dir: &Path) -> Result<Self> {
        let tokenizer = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let token = |name: &str| match tokenizer.get(name) {
            Some(Value::String(token)) => token.clone(),
            Some(Value::Object(token)) => {
                token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        let (origin, source) = find_source(dir, tokenizer.get("chat_template"))?;
        Self::new(origin, &source, token("bos_token"), token("eos_token"))
    }

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
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        });
        let source = rewrite_generation_tags(source);
        let reads_parts = reads_parts(&source);
        environment.add_template_owned("chat", source).map_err(broken)?;
        Ok(Self { environment, origin, bos_token, eos_token, reads_parts })
    }

    pub(super) fn eos_token(&self) -> &str {
        &self.eos_token
    }

    /// # Errors
    /// [`Error::Config`] where the template fails on these turns.
    pub(super) fn render(&self, turns: &[Turn]) -> Result<String> {
        let messages: Vec<Jinja> = turns
            .iter()
            .map(|turn| {
                let role = match turn.role {
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                if self.reads_parts {
                    context! { role, content => content_parts(turn) }
                } else {
                    context! { role, content => turn.text_with_placeholder() }
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

/// The file that the template came from, and its source.
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
    let config = read_json(&dir.join(CONFIG_FILE))?.unwrap_or_default();
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

/// `chat_template` is a string, or several named templates of which `default` is used.
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

fn content_parts(turn: &Turn) -> Vec<Jinja> {
    let image = turn.image.then(|| context! { type => "image" });
    image.into_iter().chain([context! { type => "text", text => turn.text.as_str() }]).collect()
}

/// Multimodal templates distinguish the parts of a message by their type; text-only templates paste `content`.
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
        // Search behind the start: in `{%}` start and end overlap.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
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
