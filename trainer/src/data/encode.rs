//! Conversations to token ids: where the image stands, and which tokens are labels.

use std::ops::Range;

use crate::data::template::{IMAGE_PLACEHOLDER, Role, Template, Turn};
use crate::data::tokenizer::{Tokenizer, shorten};
use crate::{Error, Result};

/// A model's tokenizer, template and image token, together.
#[derive(Debug)]
pub struct Encoder {
    /// The model's.
    pub tokenizer: Tokenizer,
    /// The run's.
    pub template: Template,
    /// Stands for each image feature; need not be in the tokenizer (the original LLaVA has none).
    pub image_token_id: u32,
    /// The tokenizer's text of it, where it has one.
    pub image_token_text: String,
}

/// A prompt's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, BOS first.
    pub ids: Vec<u32>,
    /// Where the image's tokens stand in `ids`.
    pub image: Option<Range<usize>>,
}

/// A conversation's ids and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervised {
    /// Token ids, BOS first; each answer ends with the EOS.
    pub ids: Vec<u32>,
    /// Whether the id at this place is a label: the answers' tokens and their EOS.
    pub labels: Vec<bool>,
    /// Where the image's tokens stand in `ids`.
    pub image: Option<Range<usize>>,
}

impl Encoder {
    /// An encoder whose image token is `<image>`.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, template: Template, image_token_id: u32) -> Self {
        Self { tokenizer, template, image_token_id, image_token_text: IMAGE_PLACEHOLDER.into() }
    }

    /// The prompt of `turns`, which end with the user's, with `image_tokens` tokens for the image that one of them
    /// shows; `None` where none does.
    ///
    /// # Errors
    /// [`Error::Data`] where a turn's text holds `<image>`, or the turns show another number of images;
    /// [`Error::Config`] where the template fails or leaves the image out.
    pub fn encode_prompt(&self, turns: &[Turn], image_tokens: Option<usize>) -> Result<Encoded> {
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

    /// The whole conversation, which ends with the assistant's turn. Each answer is tokenised together with what stands
    /// before it, so that its first token is the one the model would have written.
    ///
    /// # Errors
    /// As [`Self::encode_prompt`]; and [`Error::Data`] where the tokenizer joins the end of a prompt with the beginning
    /// of its answer, or an answer is empty.
    pub fn encode_supervised(&self, turns: &[Turn], image_tokens: Option<usize>) -> Result<Supervised> {
        check_images(turns, image_tokens)?;
        if turns.last().map(|turn| turn.role) != Some(Role::Assistant) {
            return Err(Error::Data(
                "a conversation to learn from must end with the assistant; add its answer".into(),
            ));
        }
        let mut ids = Vec::new();
        let mut labels = Vec::new();
        let mut before = String::new();
        for (index, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.role == Role::Assistant) {
            let prompt = self.template.render_prompt(&turns[..index])?;
            let (text, context) = if index == 1 {
                (prompt.clone(), None)
            } else {
                let since = self.template.since_answer(&before, &turns[index - 2].text, &prompt)?;
                (since, Some(self.tokenizer.eos_id()))
            };
            let answer = turn.text.trim();
            if answer.is_empty() {
                return Err(Error::Data(format!(
                    "turn {} of the conversation is empty; give its text",
                    index + 1
                )));
            }
            let separator = self.template.answer_separator(&turns[..index], &prompt)?;
            let with_image =
                image_tokens.is_some() && turns[..index].iter().any(|turn| turn.image) && index == 1;
            let head = self.encode_after(&text, context, with_image)?;
            let whole = self.encode_after(&format!("{text}{separator}{answer}"), context, with_image)?;
            if !whole.starts_with(&head) || whole.len() == head.len() {
                return Err(Error::Data(format!(
                    "turn {}: the tokenizer joins the end of the prompt with the beginning of the answer {:?}, so the \
                     answer's tokens cannot be told apart; change the answer's first characters or the chat template",
                    index + 1,
                    shorten(answer)
                )));
            }
            labels.extend(std::iter::repeat_n(false, head.len()));
            labels.extend(std::iter::repeat_n(true, whole.len() - head.len() + 1));
            ids.extend(whole);
            ids.push(self.tokenizer.eos_id());
            before = prompt;
        }
        if let Some(bos) = self.tokenizer.prefix_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
            labels.insert(0, false);
        }
        let at = ids.iter().position(|&id| id == self.image_token_id);
        let Encoded { ids, image } = self.expand(ids, image_tokens);
        if let (Some(at), Some(range)) = (at, &image) {
            labels.splice(at..=at, std::iter::repeat_n(false, range.len()));
        }
        Ok(Supervised { ids, labels, image })
    }

    /// Ids of `text` as it stands after the token `context`: a tokenizer that marks the beginning of a text does not
    /// mark it elsewhere alike.
    fn encode_after(&self, text: &str, context: Option<u32>, with_image: bool) -> Result<Vec<u32>> {
        let Some((context, token)) = context.and_then(|id| Some((id, self.tokenizer.id_to_token(id)?)))
        else {
            return self.encode_text(text, with_image);
        };
        match self.encode_text(&format!("{token}{text}"), with_image)?.split_first() {
            Some((first, rest)) if *first == context => Ok(rest.to_vec()),
            // The tokenizer does not read its own token in a text.
            _ => self.encode_text(text, with_image),
        }
    }

    /// Ids of `text`, in which one image token stands for `<image>` where `with_image`.
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
                // As LLaVA's `tokenizer_image_token`: both sides on their own, the token between them.
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
                "the chat template writes <image> where no image is; set spec.model.chatTemplate to MistralInstruct or \
                 VicunaV1"
                    .into(),
            )),
        }
    }

    /// Puts `count` image tokens in the place of the one.
    fn expand(&self, mut ids: Vec<u32>, count: Option<usize>) -> Encoded {
        let Some(count) = count else { return Encoded { ids, image: None } };
        let image = ids.iter().position(|&id| id == self.image_token_id).map(|at| {
            ids.splice(at..=at, std::iter::repeat_n(self.image_token_id, count));
            at..at + count
        });
        Encoded { ids, image }
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
        "the conversation shows {shown} images where {expected} is expected in its first turn; use one image an item"
    )))
}
