//! Errors of a reconciliation.

use crate::refusal::Refusal;

/// A reconciliation failed and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// A request failed that the user should know by its purpose.
    #[error("cannot {purpose}: {source}")]
    Request { purpose: &'static str, source: kube::Error },
    /// The object lacks metadata that the API server always sets.
    #[error(transparent)]
    Refusal(#[from] Refusal),
}

impl Error {
    /// Turns the error of a request into one that names its purpose.
    pub(super) fn of(purpose: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Request { purpose, source }
    }

    /// Whether somebody else changed the run first, which passes. A conflict about another object may last, such as one
    /// that a webhook answers.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.code == 409)
    }

    /// The error for the user of a run, in the words of the API server.
    pub(super) fn explanation(&self) -> String {
        let (purpose, source) = match self {
            Self::Kube(source) => ("answer a request", source),
            Self::Request { purpose, source } => (*purpose, source),
            Self::Refusal(refusal) => return refusal.to_string(),
        };
        let (why, forbidden) = match source {
            kube::Error::Api(status) => (status.message.clone(), status.code == 403),
            other => (other.to_string(), false),
        };
        let why = why.trim_start_matches("Internal error occurred: ");
        let remedy = if forbidden {
            "if the operator lacks this right, grant it (the chart does with rbac.create); it is tried again"
        } else if why.contains("field not declared in schema") {
            "install the CRDs of the operator's version; it is tried again"
        } else {
            "it is tried again"
        };
        format!("the API server could not {purpose}: {why}; {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_failed_for_says_how_to_fix_it() {
        let explain = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.into(), ..Default::default() };
            Error::Kube(kube::Error::Api(Box::new(status))).explanation()
        };
        let outdated = explain(500, ".status.resolved.precisionReason: field not declared in schema");
        assert!(outdated.contains("install the CRDs of the operator's version"), "{outdated}");
        assert!(explain(403, "pods is forbidden").contains("rbac.create"));
        assert!(explain(429, "too many requests").ends_with("too many requests; it is tried again"));
    }

    #[test]
    fn only_a_conflict_about_the_run_itself_passes() {
        let conflict = || {
            let status = kube::core::Status { code: 409, ..Default::default() };
            kube::Error::Api(Box::new(status))
        };
        assert!(Error::Kube(conflict()).is_conflict());
        assert!(!Error::of("create the Job")(conflict()).is_conflict(), "a webhook may answer it for ever");
    }
}
