//! What a policy says of an image: a description, and two answers to each question.

use serde::{Deserialize, Serialize};
use stic_contract::prompts::{DESCRIBE_AND_RESPOND, INFUSION};
use stic_contract::recipe::Sampling;

use super::scenes::Question;
use crate::algorithm::infusion::infuse;
use crate::error::Result;
use crate::io::journal::Row;
use crate::stages::ResponseRecord;
use crate::stages::desk::{Ask, Desk, Maker, Sight, required};

/// What one policy said of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    pub id: String,
    pub policy: String,
    pub image: String,
    pub description: String,
    /// By question: (id, direct answer, answer after its own description).
    pub answers: Vec<(String, String, String)>,
}

impl Row for Said {
    fn id(&self) -> &str {
        &self.id
    }
}

/// An image and the questions on it.
pub(super) struct Asked<'q> {
    pub image: &'q str,
    pub questions: &'q [&'q Question],
}

/// What one policy says of images.
pub(super) struct Speaker<'a> {
    pub policy: &'a str,
    pub max_description_tokens: u32,
}

/// An answer of a benchmark is a word or two.
const MAX_ANSWER_TOKENS: u32 = 16;

/// A greedy response.
const fn ask(prompt: String, max_new_tokens: u32) -> Ask {
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens };
    Ask { prompt, purpose: "greedy", sampling, tokens_before_in_training: 0 }
}

impl<'q> Maker for Speaker<'q> {
    type Item = Asked<'q>;
    type Row = Said;

    fn key<'i>(&self, asked: &'i Asked<'q>) -> &'i str {
        asked.image
    }

    fn plan(&self, desk: &Desk<'_>, _: &Asked<'q>, image: &::image::RgbImage) -> Result<Vec<Sight>> {
        let pixels = desk.vlm.checked.processor.preprocess(image)?;
        let describe = ask(DESCRIBE_AND_RESPOND.to_owned(), self.max_description_tokens);
        Ok(vec![Sight { pixels, corruption: None, asks: vec![describe] }])
    }

    /// Each question as it is, and after the description.
    fn then(&self, asked: &Asked<'q>, description: &ResponseRecord) -> Vec<Ask> {
        let both = |question: &&Question| {
            let infused = infuse(INFUSION, &description.text, &question.question);
            [question.question.clone(), infused].map(|prompt| ask(prompt, MAX_ANSWER_TOKENS))
        };
        asked.questions.iter().flat_map(both).collect()
    }

    fn row(&self, _: &Desk<'_>, asked: Asked<'q>, written: Vec<ResponseRecord>) -> Result<Said> {
        let mut written = written.into_iter();
        let mut text = || required(written.next(), asked.image).map(|response| response.text);
        Ok(Said {
            id: said_id(self.policy, asked.image),
            policy: self.policy.to_owned(),
            image: asked.image.to_owned(),
            description: text()?,
            answers: asked
                .questions
                .iter()
                .map(|question| Ok((question.id.clone(), text()?, text()?)))
                .collect::<Result<_>>()?,
        })
    }
}

/// Names what a policy said of an image.
pub(super) fn said_id(policy: &str, image: &str) -> String {
    format!("{policy} {image}")
}
