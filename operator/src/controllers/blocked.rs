//! Why a step cannot start.

use stic_crds::Reason;

use crate::cluster::api_writer::Created;

/// The kind of a claim.
pub(super) const CLAIM: &str = "PersistentVolumeClaim";

/// Something keeps a step from starting: for good, or until it changes. The reason says which.
#[derive(Debug)]
pub(super) struct Blocked {
    pub reason: Reason,
    pub message: String,
}

/// The object that was created, or why it was not.
pub(super) fn created<K>(created: Created<K>, kind: &str, name: &str) -> Result<Box<K>, Blocked> {
    let (reason, message) = match created {
        Created::Ours(object) => return Ok(object),
        Created::NameTaken => (
            Reason::NameTaken,
            format!("{kind} {name} already exists and is not owned by this run. Delete or rename it."),
        ),
        Created::Rejected { message } if message.contains("exceeded quota") => {
            (Reason::QuotaExceeded, format!("cannot create the {kind}: {message}. Free or raise the quota."))
        }
        // The API server's words for a right that the operator's account does not have.
        Created::Rejected { message } if message.contains(" cannot create resource ") => (
            Reason::JobRejected,
            format!(
                "the operator may not create the {kind}: {message}. Grant it this right, as the chart does with rbac.create."
            ),
        ),
        Created::Rejected { message } => {
            let field =
                if kind == CLAIM { "in spec.output.volumeClaimTemplate" } else { "most often in spec.pod" };
            let message = format!(
                "the API server rejected the {kind}: {message}. Correct what it names, which is {field}."
            );
            (Reason::JobRejected, message)
        }
    };
    Err(Blocked { reason, message })
}
