//! The key under which runs are looked up.

use stic_contract::{RunIdentity, RunKind};

/// Kind, namespace and name of a run. State about a run is kept by this key, so that it can be dropped when the name is
/// all that is left of the run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunKey {
    pub kind: RunKind,
    pub namespace: String,
    pub name: String,
}

impl RunKey {
    #[must_use]
    pub fn new(kind: RunKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl From<&RunIdentity> for RunKey {
    fn from(run: &RunIdentity) -> Self {
        Self::new(run.kind, &run.namespace, &run.name)
    }
}
