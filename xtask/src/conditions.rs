//! The condition types and reasons of a run, with their documentation in the API crate.

use std::path::PathBuf;

use stic_crds::{ConditionType, Reason};

use crate::markdown::{self, code};

pub(crate) fn condition_table() -> String {
    let rows = ConditionType::ALL.iter().map(|kind| [code(kind.as_str()), kind.documentation().to_owned()]);
    markdown::table(["condition", "meaning"], rows)
}

pub(crate) fn reason_table() -> String {
    let rows = Reason::ALL.iter().map(|reason| [code(reason.as_str()), reason.documentation().to_owned()]);
    markdown::table(["reason", "meaning"], rows)
}

pub(crate) fn page() -> (PathBuf, String) {
    let text = format!(
        "{}# Conditions and reasons\n\n`kubectl describe` shows them. The reason of `Succeeded` is the phase of the run, and the \
         message of a problem ends with what to do.\n\n## Conditions\n\n{}\n## Reasons\n\n{}",
        markdown::DO_NOT_EDIT,
        condition_table(),
        reason_table()
    );
    ("docs/reference/conditions.md".into(), text)
}
