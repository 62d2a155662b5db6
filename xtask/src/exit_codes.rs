//! The exit codes of the programs.

use std::path::PathBuf;

use stic_contract::exit_code;

use crate::markdown;

pub(crate) fn table() -> String {
    let rows = exit_code::reference()
        .into_iter()
        .map(|row| [row.status.to_string(), row.meaning.to_owned(), row.advice.to_owned()]);
    markdown::table(["exit code", "meaning", "what to do"], rows)
}

pub(crate) fn page() -> (PathBuf, String) {
    let text = format!(
        "{}# Exit codes\n\nThe exit codes of `kubectl-stic run` and `stic-trainer`, with the numbers of `sysexits.h`. On a cluster, a step's \
         `podFailurePolicy` is built from them.\n\n{}",
        markdown::DO_NOT_EDIT,
        table()
    );
    ("docs/reference/exit-codes.md".into(), text)
}
