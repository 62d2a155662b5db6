//! Encodes conversations as token ids, with the place of the image and the labels.

use std::ops::Range;

use crate::data::template::{IMAGE_PLACEHOLDER, PromptTemplate, Role, Turn};
use crate::data::tokenizer::{Tokenizer, shorten};
use crate::{Error, Result};

/// A model's tokenizer with a template and the image token.
#[derive(Debug)]
pub struct Encoder {
    pub tokenizer: Tokenizer,
    pub template: PromptTemplate,
    /// The id in place of each image feature. The tokenizer need not have it (the original LLaVA's has not).
    pub image_token_id: u32,
    /// The image token's text in the tokenizer, where it has one.
    pub image_token_text: String,
}

/// The token ids of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Token ids, BOS first.
    pub ids: Vec<u32>,
    /// The places of the image's tokens in `ids`.
    pub image: Option<Range<usize>>,
}

/// The token ids and labels of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedConversation {
    /// Token ids, BOS first. Each answer ends with the EOS.
    pub ids: Vec<u32>,
    /// Whether the id at this place is a label: the tokens of the answers and their EOS.
    pub labels: Vec<bool>,
    /// The places of the image's tokens in `ids`.
    pub image: Option<Range<usize>>,
}

/// The token ids of one exchange of a conversation.
struct EncodedExchange {
    /// Prompt and answer, without the EOS.
    ids: Vec<u32>,
    /// How many of them are the prompt's.
    prompt_len: usize,
}

impl Encoder {
    /// An encoder whose image token is `<image>`.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, template: PromptTemplate, image_token_id: u32) -> Self {
        Self { tokenizer, template, image_token_id, image_token_text: IMAGE_PLACEHOLDER.into() }
    }

    /// Encodes `turns`, the last of which is the user's. `image_tokens` is the number of tokens of the image in the
    /// first turn, `None` for a conversation without an image.
    ///
    /// # Errors
    /// [`Error::Data`] where a turn's text holds `<image>`, or the turns show another number of images;
    /// [`Error::Config`] where the template fails or leaves the image out.
    pub fn encode_prompt(&self, turns: &[Turn], image_tokens: Option<usize>) -> Result<EncodedPrompt> {
        check_images(turns, image_tokens)?;
        let text = self.template.render_prompt(turns)?;
        let mut ids = self.encode_text(&text, image_tokens.is_some())?;
        if let Some(bos) = self.tokenizer.prefix_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(self.expand(ids, image_tokens))
    }

    /// Encodes a whole conversation, the last turn of which is the assistant's. Each answer is tokenised together with
    /// the text before it, so that its first token is the one that the model would have generated.
    ///
    /// # Errors
    /// As [`Self::encode_prompt`]; and [`Error::Data`] where a token spans the end of a prompt and the beginning of its
    /// answer, or an answer is empty.
    pub fn encode_supervised(
        &self,
        turns: &[Turn],
        image_tokens: Option<usize>,
    ) -> Result<EncodedConversation> {
        check_images(turns, image_tokens)?;
        if turns.last().map(|turn| turn.role) != Some(Role::Assistant) {
            return Err(Error::Data(
                "a conversation to learn from must end with the assistant; add its answer".into(),
            ));
        }
        let mut ids = Vec::new();
        let mut labels = Vec::new();
        let mut previous_prompt = String::new();
        for (index, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.role == Role::Assistant) {
            let prompt = self.template.render_prompt(&turns[..index])?;
            let with_image = image_tokens.is_some() && index == 1;
            let exchange =
                self.encode_exchange(&turns[..index], &prompt, &previous_prompt, &turn.text, with_image)?;
            labels.extend(std::iter::repeat_n(false, exchange.prompt_len));
            labels.extend(std::iter::repeat_n(true, exchange.ids.len() - exchange.prompt_len + 1));
            ids.extend(exchange.ids);
            ids.push(self.tokenizer.eos_id());
            previous_prompt = prompt;
        }
        if let Some(bos) = self.tokenizer.prefix_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
            labels.insert(0, false);
        }
        let at = ids.iter().position(|&id| id == self.image_token_id);
        let EncodedPrompt { ids, image } = self.expand(ids, image_tokens);
        if let (Some(at), Some(range)) = (at, &image) {
            labels.splice(at..=at, std::iter::repeat_n(false, range.len()));
        }
        Ok(EncodedConversation { ids, labels, image })
    }

    /// Encodes the exchange that ends with `answer`: what `prompt`, the rendered `turns`, has beyond
    /// `previous_prompt`, and the answer.
    fn encode_exchange(
        &self,
        turns: &[Turn],
        prompt: &str,
        previous_prompt: &str,
        answer: &str,
        with_image: bool,
    ) -> Result<EncodedExchange> {
        let index = turns.len();
        let (text, context) = if index == 1 {
            (prompt.to_owned(), None)
        } else {
            let text = self.template.text_after_answer(previous_prompt, &turns[index - 2].text, prompt)?;
            (text, Some(self.tokenizer.eos_id()))
        };
        let answer = answer.trim();
        if answer.is_empty() {
            return Err(Error::Data(format!(
                "turn {} of the conversation is empty; give its text",
                index + 1
            )));
        }
        let separator = self.template.answer_separator(turns, prompt)?;
        let head = self.encode_after(&text, context, with_image)?;
        let ids = self.encode_after(&format!("{text}{separator}{answer}"), context, with_image)?;
        if !ids.starts_with(&head) || ids.len() == head.len() {
            return Err(Error::Data(format!(
                "turn {}: a token spans the end of the prompt and the beginning of the answer {:?}, so the answer's \
                 tokens cannot be separated; change the answer's first characters or the chat template",
                index + 1,
                shorten(answer)
            )));
        }
        Ok(EncodedExchange { ids, prompt_len: head.len() })
    }

    /// The ids of `text` after the token `context`: some tokenizers mark the beginning of a text, which must not happen
    /// in the middle of a conversation.
    fn encode_after(&self, text: &str, context: Option<u32>, with_image: bool) -> Result<Vec<u32>> {
        let Some((context, token)) = context.and_then(|id| Some((id, self.tokenizer.id_to_token(id)?)))
        else {
            return self.encode_text(text, with_image);
        };
        match self.encode_text(&format!("{token}{text}"), with_image)?.split_first() {
            Some((first, rest)) if *first == context => Ok(rest.to_vec()),
            // The tokenizer does not recognise its own token in a text.
            _ => self.encode_text(text, with_image),
        }
    }

    /// The ids of `text`, with one image token for `<image>` where `with_image`.
    fn encode_text(&self, text: &str, with_image: bool) -> Result<Vec<u32>> {
        let mut parts = text.split(IMAGE_PLACEHOLDER);
        let (first, second, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        match (with_image, second, more) {
            (false, None, _) => self.tokenizer.encode(text, false),
            (true, Some(second), None) => {
                if self.tokenizer.token_to_id(&self.image_token_text) == Some(self.image_token_id) {
                    let text = format!("{first}{}{second}", self.image_token_text);
                    return self.tokenizer.encode(&text, false);
                }
                // As LLaVA's `tokenizer_image_token`: both sides are encoded separately, the token goes between them.
                let mut ids = self.tokenizer.encode(first, false)?;
                ids.push(self.image_token_id);
                ids.extend(self.tokenizer.encode(second, false)?);
                Ok(ids)
            }
            (true, None, _) => Err(Error::Config(
                "the model's chat template leaves the image out; set spec.model.chatTemplate to MistralInstruct or VicunaV1"
                    .into(),
            )),
            (false, Some(_), _) | (true, Some(_), Some(_)) => Err(Error::Config(
                "the chat template writes <image> where there is no image; set spec.model.chatTemplate to MistralInstruct or \
                 VicunaV1"
                    .into(),
            )),
        }
    }

    /// Replaces the image token by `count` of them.
    fn expand(&self, mut ids: Vec<u32>, count: Option<usize>) -> EncodedPrompt {
        let Some(count) = count else { return EncodedPrompt { ids, image: None } };
        let image = ids.iter().position(|&id| id == self.image_token_id).map(|at| {
            ids.splice(at..=at, std::iter::repeat_n(self.image_token_id, count));
            at..at + count
        });
        EncodedPrompt { ids, image }
    }
}

fn check_images(turns: &[Turn], image_tokens: Option<usize>) -> Result<()> {
    if let Some(index) = turns.iter().position(|turn| turn.text.contains(IMAGE_PLACEHOLDER)) {
        return Err(Error::Data(format!(
            "the text of turn {} contains {IMAGE_PLACEHOLDER}, which stands for the image; remove it from the text",
            index + 1
        )));
    }
    let (shown, expected) =
        (turns.iter().filter(|turn| turn.image).count(), usize::from(image_tokens.is_some()));
    let first_only = turns.iter().skip(1).all(|turn| !turn.image);
    if shown == expected && first_only {
        return Ok(());
    }
    Err(Error::Data(format!(
        "the conversation shows {shown} images where {expected} is expected, in its first turn; use one image for each item"
    )))
}
