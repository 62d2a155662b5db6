//! A question of MathVista.

use serde::{Deserialize, Serialize};

use super::extract::{AnswerType, Problem, query};

/// A question of MathVista.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    pub unit: Option<String>,
    /// Empty unless it is a multiple-choice question.
    pub choices: Vec<String>,
    pub answer_type: AnswerType,
    /// The decimal places of a float.
    pub precision: Option<u32>,
    /// The text of the right option, or the right value.
    pub answer: String,
    /// `figure question answering`, or another of five.
    pub task: String,
}

impl Item {
    pub(super) fn problem(&self) -> Problem<'_> {
        Problem { choices: &self.choices, answer_type: self.answer_type, precision: self.precision }
    }

    pub(super) fn query(&self) -> String {
        query(&self.question, self.unit.as_deref(), self.problem())
    }
}
