//! Prompting: a description of each image, then every question directly and after that description.

use stic_contract::prompts::{DESCRIBE_AND_RESPOND, INFUSION};
use stic_contract::recipe::Sampling;

use super::answers::{Answer, ImageAnswers, answers_id};
use super::questions::ImageQuestions;
use crate::algorithm::infusion::infuse;
use crate::error::Result;
use crate::inference::{ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, required};

pub(super) struct AnswerPlan<'a> {
    pub(super) policy: &'a str,
    pub(super) max_description_tokens: u32,
}

fn greedy(prompt: String, max_new_tokens: u32) -> PromptRequest {
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens };
    PromptRequest { prompt, purpose: "greedy", sampling, prompt_tokens_in_training: 0 }
}

impl<'b> ResponsePlan for AnswerPlan<'b> {
    type Item = &'b ImageQuestions<'b>;
    type Image = ::image::RgbImage;
    type Record = ImageAnswers;

    fn draw_key<'i>(&self, item: &'i Self::Item) -> &'i str {
        item.image
    }

    fn requests(
        &self,
        policy: &Policy<'_>,
        _: &Self::Item,
        image: &::image::RgbImage,
    ) -> Result<Vec<ImageRequest>> {
        let pixels = policy.vlm.files.processor.preprocess(image)?;
        let describe = greedy(DESCRIBE_AND_RESPOND.to_owned(), self.max_description_tokens);
        Ok(vec![ImageRequest { pixels: Some(pixels), corruption: None, prompts: vec![describe] }])
    }

    /// Each question directly, and after the description.
    fn follow_ups(&self, item: &Self::Item, description: &ResponseRecord) -> Vec<PromptRequest> {
        let mut prompts = Vec::with_capacity(2 * item.questions.len());
        for question in &item.questions {
            let infused = infuse(INFUSION, &description.text, &question.text);
            prompts.push(greedy(question.text.clone().into_owned(), question.max_new_tokens));
            prompts.push(greedy(infused, question.max_new_tokens));
        }
        prompts
    }

    fn record(
        &self,
        _: &Policy<'_>,
        item: Self::Item,
        responses: Vec<ResponseRecord>,
    ) -> Result<ImageAnswers> {
        let mut responses = responses.into_iter();
        let mut text = || required(responses.next(), item.image).map(|response| response.text);
        Ok(ImageAnswers {
            id: answers_id(self.policy, item.image),
            policy: self.policy.to_owned(),
            image: item.image.to_owned(),
            description: text()?,
            answers: item
                .questions
                .iter()
                .map(|question| {
                    Ok(Answer {
                        question: question.id.to_owned(),
                        direct: text()?,
                        after_description: text()?,
                    })
                })
                .collect::<Result<_>>()?,
        })
    }
}
