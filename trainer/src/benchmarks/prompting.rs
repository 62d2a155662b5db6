//! The ways of asking a question.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use stic_contract::prompts::INFUSION;
use stic_evaluation::registry::Question;

use crate::algorithm::infusion::infuse;

/// A way of asking a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
pub enum Prompting {
    /// The image and the question.
    Direct,
    /// After the model's own description of the image, which goes into the prompt. A question without an image is asked
    /// directly.
    DescribeAndRespond,
    /// As the released code of STIC does it: the description is made without the image, so it is the same for all questions.
    DescribeAndRespondAsReleased,
}

impl Prompting {
    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "Direct",
            Self::DescribeAndRespond => "DescribeAndRespond",
            Self::DescribeAndRespondAsReleased => "DescribeAndRespondAsReleased",
        }
    }

    /// The prompt of `question`. `own` is the model's description of the image, `blind` the one that it made without an
    /// image.
    pub(super) fn prompt(self, question: &Question, own: Option<&str>, blind: Option<&str>) -> String {
        let description = match self {
            Self::Direct => None,
            Self::DescribeAndRespond => own,
            Self::DescribeAndRespondAsReleased => blind,
        };
        match description {
            Some(description) if question.image.is_some() => infuse(INFUSION, description, &question.prompt),
            _ => question.prompt.clone(),
        }
    }
}
