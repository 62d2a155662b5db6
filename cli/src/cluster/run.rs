//! A run on a cluster.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;
use stic_contract::RunKind;
use stic_crds::{ConditionType, RunStatus};

use crate::error::{Failure, Result};
use crate::run_name::RunName;

/// What is shown when a run has no status.
pub(super) const NOT_RECONCILED: &str =
    "Not reconciled yet. Check that the operator is running and watches this namespace.";

/// A run with its parsed status. The object keeps fields that this version does not know.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub name: RunName,
    pub uid: String,
    pub object: DynamicObject,
    pub status: RunStatus,
}

impl Run {
    pub(super) fn parse(kind: RunKind, mut object: DynamicObject) -> Result<Self> {
        object.metadata.managed_fields = None;
        let name = RunName::new(kind, object.name_any());
        let status = object.data.get("status").cloned().map(serde_json::from_value::<RunStatus>).transpose();
        let status = status.map_err(|error| {
            Failure::unavailable(format!(
                "cannot parse the status of {name}: {error}. Use the kubectl-stic of the operator's version."
            ))
        })?;
        Ok(Self { uid: object.uid().unwrap_or_default(), name, status: status.unwrap_or_default(), object })
    }

    fn spec(&self, field: &str) -> Option<&Value> {
        self.object.data.get("spec")?.get(field)
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec("suspend").and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn rerun(&self) -> u32 {
        self.number("rerun")
    }

    pub(super) fn retry(&self) -> u32 {
        self.number("retry")
    }

    fn number(&self, field: &str) -> u32 {
        let value = self.spec(field).and_then(Value::as_u64);
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default()
    }

    /// Whether the operator has yet to see that the spec requests another rerun or retry.
    pub(super) fn is_requested(&self) -> bool {
        self.rerun() > self.status.seen_rerun()
            || (self.status.succeeded() == Some(false) && self.retry() > self.status.retry)
    }

    /// The phase as a table shows it.
    pub(super) fn shown_phase(&self) -> Option<String> {
        let display = self.status.display.as_ref().and_then(|display| display.phase.clone());
        display.or_else(|| self.phase().map(ToOwned::to_owned))
    }

    /// The phase; `None` until the operator has reconciled the run.
    pub(super) fn phase(&self) -> Option<&str> {
        self.status.phase()
    }

    /// The message of the run's phase; `None` until the operator has reconciled the run.
    pub(super) fn message(&self) -> Option<&str> {
        self.status.condition(ConditionType::Succeeded).map(|condition| condition.message.as_str())
    }

    /// Whether the rerun that the spec requests has ended.
    pub(super) fn is_finished(&self) -> bool {
        !self.is_requested() && self.status.succeeded().is_some()
    }
}
