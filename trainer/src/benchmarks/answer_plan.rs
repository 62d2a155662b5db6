//! What is asked about an image: a description if one is missing, and then every question.

use stic_contract::prompts::DESCRIBE_AND_RESPOND;
use stic_contract::recipe::Sampling;
use stic_evaluation::registry::Question;

use super::answer::{Answer, answer_id};
use super::prompting::Prompting;
use crate::error::Result;
use crate::inference::{ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, required};

/// An image, or none, and the questions about it that have no answer yet.
#[derive(Debug)]
pub(super) struct ImageQuestions {
    /// For random draws, of which greedy decoding makes none, and for messages.
    pub(super) key: String,
    pub(super) missing: Vec<(Question, Prompting)>,
}

impl ImageQuestions {
    fn needs_description(&self) -> bool {
        let describes = |(question, prompting): &(Question, Prompting)| {
            *prompting == Prompting::DescribeAndRespond && question.image.is_some()
        };
        self.missing.iter().any(describes)
    }
}

pub(super) struct AnswerPlan {
    pub(super) max_description_tokens: u32,
    /// The description that was made without an image, if it is asked for.
    pub(super) blind_description: Option<String>,
}

pub(super) fn greedy(prompt: String, max_new_tokens: u32) -> PromptRequest {
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens };
    PromptRequest { prompt, purpose: "greedy", sampling, prompt_tokens_in_training: 0 }
}

impl AnswerPlan {
    fn prompts(&self, item: &ImageQuestions, own: Option<&str>) -> Vec<PromptRequest> {
        let blind = self.blind_description.as_deref();
        let prompt = |(question, prompting): &(Question, Prompting)| {
            greedy(prompting.prompt(question, own, blind), question.max_new_tokens)
        };
        item.missing.iter().map(prompt).collect()
    }
}

impl ResponsePlan for AnswerPlan {
    type Item = ImageQuestions;
    type Image = Option<::image::RgbImage>;
    type Record = Vec<Answer>;

    fn draw_key<'i>(&self, item: &'i Self::Item) -> &'i str {
        &item.key
    }

    fn requests(
        &self,
        policy: &Policy<'_>,
        item: &Self::Item,
        image: &Self::Image,
    ) -> Result<Vec<ImageRequest>> {
        let processor = &policy.vlm.files.processor;
        let pixels = image.as_ref().map(|image| processor.preprocess(image)).transpose()?;
        let prompts = if item.needs_description() {
            vec![greedy(DESCRIBE_AND_RESPOND.to_owned(), self.max_description_tokens)]
        } else {
            self.prompts(item, None)
        };
        Ok(vec![ImageRequest { pixels, corruption: None, prompts }])
    }

    fn follow_ups(&self, item: &Self::Item, first: &ResponseRecord) -> Vec<PromptRequest> {
        if item.needs_description() { self.prompts(item, Some(&first.text)) } else { Vec::new() }
    }

    fn record(
        &self,
        _: &Policy<'_>,
        item: Self::Item,
        responses: Vec<ResponseRecord>,
    ) -> Result<Vec<Answer>> {
        let mut responses = responses.into_iter();
        let own = match item.needs_description() {
            true => Some(required(responses.next(), &item.key)?.text),
            false => None,
        };
        let mut answers = Vec::with_capacity(item.missing.len());
        for (question, prompting) in &item.missing {
            let response = required(responses.next(), &question.id)?;
            let description = match prompting {
                Prompting::Direct => None,
                Prompting::DescribeAndRespond => own.clone(),
                Prompting::DescribeAndRespondAsReleased => self.blind_description.clone(),
            };
            let id = answer_id(question, *prompting);
            answers.push(Answer::new(id, response.text, description, response.finished));
        }
        Ok(answers)
    }
}
