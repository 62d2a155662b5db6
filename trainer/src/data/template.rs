//! Chat templates: from a conversation to the text that the model reads.

mod jinja;
mod turn;

use std::path::Path;

use stic_contract::recipe::ChatTemplate;

use crate::{Error, Result};

pub use self::jinja::JinjaTemplate;
pub use self::turn::{IMAGE_PLACEHOLDER, Role, Turn, strip_image_placeholder};

/// The system line of LLaVA's `conv_vicuna_v1`.
const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant \
     gives helpful, detailed, and polite answers to the user's questions.";

/// How a conversation is rendered as a prompt.
#[derive(Debug)]
pub enum PromptTemplate {
    /// `[INST] <image>\nQ [/INST] A</s>`, LLaVA's `mistral_instruct`.
    MistralInstruct,
    /// `A chat ... USER: <image>\nQ ASSISTANT: A</s>`, LLaVA's `vicuna_v1`.
    VicunaV1,
    /// The model's own.
    Jinja(Box<JinjaTemplate>),
}

impl PromptTemplate {
    /// The template of `choice`; [`ChatTemplate::Auto`] is the model's own.
    ///
    /// # Errors
    /// [`Error::Config`] where the model has no template, or one that does not compile.
    pub fn load(dir: &Path, choice: ChatTemplate) -> Result<Self> {
        match choice {
            ChatTemplate::MistralInstruct => Ok(Self::MistralInstruct),
            ChatTemplate::VicunaV1 => Ok(Self::VicunaV1),
            ChatTemplate::Auto => Ok(Self::Jinja(Box::new(JinjaTemplate::from_dir(dir)?))),
        }
    }

    /// The text up to and including the last user turn, ready for the model to answer.
    ///
    /// # Errors
    /// [`Error::Data`] where the turns do not alternate from user to user; [`Error::Config`] where the model's template
    /// fails on them.
    pub fn render_prompt(&self, turns: &[Turn]) -> Result<String> {
        require_alternating(turns)?;
        match self {
            Self::MistralInstruct => Ok(mistral_instruct(turns)),
            Self::VicunaV1 => Ok(vicuna_v1(turns)),
            Self::Jinja(template) => template.render(turns),
        }
    }

    /// The text between `prompt`, which is the rendered `turns`, and its answer.
    ///
    /// For a model's own template it is found by rendering one more exchange. Where that does not extend the prompt, the
    /// separator is one space.
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
        let default = if prompt.ends_with(char::is_whitespace) { "" } else { " " };
        Ok(separator.unwrap_or(default).to_owned())
    }

    /// The part of `prompt` after `answer`, which itself follows `before`, the prompt rendered one exchange earlier. The
    /// template's end of the answer is left out, because the encoder puts the EOS there.
    ///
    /// # Errors
    /// [`Error::Config`] where the template does not extend a conversation turn by turn.
    pub(crate) fn text_after_answer(&self, before: &str, answer: &str, prompt: &str) -> Result<String> {
        let end = match self {
            Self::MistralInstruct | Self::VicunaV1 => "</s>",
            Self::Jinja(template) => template.eos_token(),
        };
        let rest = prompt
            .strip_prefix(before)
            .and_then(|rest| rest.trim_start().strip_prefix(answer.trim()))
            .ok_or_else(|| {
                Error::Config(
                    "the chat template does not render a conversation turn by turn, so the answers in its middle cannot \
                     be located; set spec.model.chatTemplate to MistralInstruct or VicunaV1"
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

fn require_alternating(turns: &[Turn]) -> Result<()> {
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

/// LLaVA's `SeparatorStyle.LLAMA_2` with `sep=""`, `sep2="</s>"` and no system message. The encoder adds the BOS.
fn mistral_instruct(turns: &[Turn]) -> String {
    turns
        .iter()
        .map(|turn| match turn.role {
            Role::User => format!("[INST] {} [/INST]", turn.text_with_placeholder()),
            Role::Assistant => format!(" {} </s>", turn.text),
        })
        .collect()
}

/// LLaVA's `SeparatorStyle.TWO` with `sep=" "`, `sep2="</s>"`.
fn vicuna_v1(turns: &[Turn]) -> String {
    let mut text = format!("{VICUNA_SYSTEM} ");
    for turn in turns {
        match turn.role {
            Role::User => text.push_str(&format!("USER: {} ", turn.text_with_placeholder())),
            Role::Assistant => text.push_str(&format!("ASSISTANT: {}</s>", turn.text)),
        }
    }
    text + "ASSISTANT:"
}
