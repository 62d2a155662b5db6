//! One mistake in an object.

use std::fmt;

/// An error as the API server would report it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Invalid {
    /// The path of the field, such as `spec.training.dpo.beta`.
    pub field: String,
    /// What is wrong with the field, and how to fix it.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
