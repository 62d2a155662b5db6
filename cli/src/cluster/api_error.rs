//! Errors of the API server, and of the connection to it, as messages with a fix.

use crate::error::Failure;

pub(super) fn failure(error: kube::Error) -> Failure {
    let is_transient = match &error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    };
    Failure { is_transient, ..Failure::unavailable(message(&error)) }
}

fn message(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else {
        return format!(
            "the API server cannot be reached: {}. Check the cluster and the kubeconfig, then run the same command again.",
            with_sources(error)
        );
    };
    let reason = &status.message;
    match status.code {
        // The resource itself is unknown: `get_opt` returns `None` for a missing object.
        404 if reason.starts_with("404") => "the cluster has no resources StageOneRun, StageTwoRun and EvaluationRun. Install the operator's chart, or select another cluster with --context.".into(),
        401 => format!("the API server rejected the credentials: {reason}. Log in again, or select others with --context."),
        403 => format!("{reason}. Ask for that permission, or select another namespace or context."),
        409 => format!("{reason}. Run the same command again."),
        _ => format!("the API server refused the request: {reason}. Fix what it names, then run the same command again."),
    }
}

/// The error with its sources: the outermost text of a failed connection does not explain it.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
