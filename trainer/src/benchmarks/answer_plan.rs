//! What is asked about an image: a description if one is missing, and then every question.

use stic_contract::evaluation::Prompting;
use stic_contract::prompts::DESCRIBE_AND_RESPOND;
use stic_contract::recipe::Sampling;
use stic_evaluation::registry::Question;

use super::answer::{Answer, answer_id};
use super::prompting::Descriptions;
use crate::error::Result;
use crate::inference::{ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, required};

/// An image, or none, and the questions about it that have no answer yet.
#[derive(Debug)]
pub(super) struct MissingAnswers {
    /// For random draws, of which greedy decoding makes none, and for messages.
    pub(super) key: String,
    pub(super) questions: Vec<(Question, Prompting)>,
}

impl MissingAnswers {
    fn needs_description(&self) -> bool {
        let describes = |(question, prompting): &(Question, Prompting)| {
            *prompting == Prompting::DescribeAndRespond && question.image.is_some()
        };
        self.questions.iter().any(describes)
    }
}

pub(super) struct AnswerPlan {
    pub(super) max_description_tokens: u32,
    /// The description that was made without an image, if it is asked for.
    pub(super) description_without_image: Option<String>,
}

fn greedy(prompt: String, max_new_tokens: u32) -> PromptRequest {
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens };
    PromptRequest { prompt, purpose: "greedy", sampling, prompt_tokens_in_training: 0 }
}

fn description_request(max_new_tokens: u32) -> PromptRequest {
    greedy(DESCRIBE_AND_RESPOND.to_owned(), max_new_tokens)
}

impl AnswerPlan {
    fn descriptions<'a>(&'a self, of_image: Option<&'a str>) -> Descriptions<'a> {
        Descriptions { of_image, without_image: self.description_without_image.as_deref() }
    }

    fn prompts(&self, item: &MissingAnswers, of_image: Option<&str>) -> Vec<PromptRequest> {
        let descriptions = self.descriptions(of_image);
        let prompt = |(question, prompting): &(Question, Prompting)| {
            greedy(descriptions.prompt(question, *prompting), question.max_new_tokens)
        };
        item.questions.iter().map(prompt).collect()
    }
}

impl ResponsePlan for AnswerPlan {
    type Item = MissingAnswers;
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
            vec![description_request(self.max_description_tokens)]
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
        let of_image = match item.needs_description() {
            true => Some(required(responses.next(), &item.key)?.text),
            false => None,
        };
        let descriptions = self.descriptions(of_image.as_deref());
        let mut answers = Vec::with_capacity(item.questions.len());
        for (question, prompting) in &item.questions {
            let response = required(responses.next(), &question.id)?;
            answers.push(Answer {
                id: answer_id(question, *prompting),
                answer: response.text,
                description: descriptions.of(*prompting).map(str::to_owned),
                finished: response.finished,
            });
        }
        Ok(answers)
    }
}

/// What the model describes where there is no image.
pub(super) struct DescriptionWithoutImage {
    pub(super) max_tokens: u32,
}

impl ResponsePlan for DescriptionWithoutImage {
    type Item = ();
    type Image = ();
    type Record = String;

    fn draw_key<'i>(&self, (): &'i ()) -> &'i str {
        "the description without an image"
    }

    fn requests(&self, _: &Policy<'_>, (): &(), (): &()) -> Result<Vec<ImageRequest>> {
        let prompts = vec![description_request(self.max_tokens)];
        Ok(vec![ImageRequest { pixels: None, corruption: None, prompts }])
    }

    fn record(&self, _: &Policy<'_>, (): (), responses: Vec<ResponseRecord>) -> Result<String> {
        Ok(required(responses.into_iter().next(), self.draw_key(&()))?.text)
    }
}
