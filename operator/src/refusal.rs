//! Why a spec cannot run, now or ever.

use stic_crds::Reason;

/// A spec that cannot become a [`crate::Validated`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something that the run needs does not exist yet.
    #[error("{message}")]
    Wait { reason: Reason, message: String },
    /// The spec can never run.
    #[error("{field}: {message}; {remedy}")]
    Invalid { reason: Reason, field: String, message: String, remedy: &'static str },
}

impl Refusal {
    pub(crate) fn invalid(
        field: impl Into<String>,
        message: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self::Invalid { reason: Reason::InvalidSpec, field: field.into(), message: message.into(), remedy }
    }
}
