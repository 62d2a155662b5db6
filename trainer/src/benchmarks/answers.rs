//! A policy's answers about an image: a description, and two answers to each question.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::score_table::Metric;
use crate::error::{Error, Result};
use crate::io::journal::Row;

/// A line of `answers-*.jsonl`: one policy's answers about one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageAnswers {
    pub(super) id: String,
    pub(super) policy: String,
    pub(super) image: String,
    pub description: String,
    pub(super) answers: Vec<Answer>,
}

/// The answers to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "(String, String, String)", into = "(String, String, String)")]
pub struct Answer {
    /// The question's id.
    pub(super) question: String,
    pub direct: String,
    /// The answer after the policy's own description.
    pub after_description: String,
}

impl From<(String, String, String)> for Answer {
    fn from((question, direct, after_description): (String, String, String)) -> Self {
        Self { question, direct, after_description }
    }
}

impl From<Answer> for (String, String, String) {
    fn from(answer: Answer) -> Self {
        (answer.question, answer.direct, answer.after_description)
    }
}

impl Row for ImageAnswers {
    fn id(&self) -> &str {
        &self.id
    }
}

impl ImageAnswers {
    /// The answers to `question`.
    pub fn answer(&self, question: &str) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.question == question)
    }
}

/// The id of a policy's answers about an image.
pub(super) fn answers_id(policy: &str, image: &str) -> String {
    format!("{policy} {image}")
}

/// All answers of one policy.
pub struct PolicyAnswers<'a> {
    pub(super) policy: &'a str,
    /// Of every policy.
    pub(super) by_id: &'a BTreeMap<String, ImageAnswers>,
}

impl PolicyAnswers<'_> {
    /// Its answers about `image`.
    ///
    /// # Errors
    /// [`Error::Data`] if there are none.
    pub fn about(&self, image: &str) -> Result<&ImageAnswers> {
        self.by_id.get(&answers_id(self.policy, image)).ok_or_else(|| {
            Error::Data(format!(
                "policy {} has no answers about {image}; run the evaluation again",
                self.policy
            ))
        })
    }

    /// Scores both answers to each question, as the metrics of direct prompting and of describe-and-respond.
    /// `image_and_id` identifies a question; a question without an answer scores 0.
    ///
    /// # Errors
    /// [`Error::Data`] if there are no answers about an image.
    pub(super) fn score_questions<'q, Q: 'q>(
        &self,
        questions: impl IntoIterator<Item = &'q Q>,
        image_and_id: fn(&Q) -> (&str, &str),
        score: impl Fn(&Q, &str) -> f64,
    ) -> Result<[Metric; 2]> {
        let (mut direct, mut after_description) = (Vec::new(), Vec::new());
        for question in questions {
            let (image, id) = image_and_id(question);
            let answer = self.about(image)?.answer(id);
            direct.push(answer.map_or(0.0, |answer| score(question, &answer.direct)));
            after_description.push(answer.map_or(0.0, |answer| score(question, &answer.after_description)));
        }
        Ok([
            Metric { key: "direct", title: "asked directly", values: direct },
            Metric { key: "describeAndRespond", title: "describe and respond", values: after_description },
        ])
    }
}
