//! The prompt of a question under each way of asking.

use stic_contract::evaluation::Prompting;
use stic_contract::prompts::INFUSION;
use stic_evaluation::registry::Question;

use crate::algorithm::infusion::infuse;

/// The descriptions that may go into a prompt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Descriptions<'a> {
    /// The model's own of the image.
    pub(super) of_image: Option<&'a str>,
    /// The one that it made without an image.
    pub(super) without_image: Option<&'a str>,
}

impl<'a> Descriptions<'a> {
    /// The one that belongs to this way of asking.
    pub(super) const fn of(self, prompting: Prompting) -> Option<&'a str> {
        match prompting {
            Prompting::Direct => None,
            Prompting::DescribeAndRespond => self.of_image,
            Prompting::DescribeAndRespondAsReleased => self.without_image,
        }
    }

    /// The prompt of `question`.
    pub(super) fn prompt(self, question: &Question, prompting: Prompting) -> String {
        match self.of(prompting) {
            Some(description) if question.image.is_some() => infuse(INFUSION, description, &question.prompt),
            _ => question.prompt.clone(),
        }
    }
}
