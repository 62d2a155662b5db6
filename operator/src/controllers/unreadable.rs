//! A run that another version of the operator wrote and that this version cannot read.
//!
//! Its conditions say so, and nothing else of its status changes: it has not failed, and the version that can read it
//! continues it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};
use stic_crds::{ConditionType, Reason};

use super::error::Error;
use super::facts;
use super::run::Run;
use super::validation::identity;
use crate::context::Context;

/// Writes the conditions and publishes an event.
pub(super) async fn report<K: Run>(context: &Context, invalid: &InvalidObject) -> Result<(), Error> {
    if invalid.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let run = identity(K::KIND, &invalid.metadata, 0)?;
    let Some(object) = facts::stored(context, &ApiResource::erase::<K>(&()), &run).await? else {
        return Ok(());
    };
    let message = format!(
        "this version of the operator cannot read the run: {}; install the version that wrote it, and the run continues on its own",
        invalid.error
    );
    let Some(status) = status(&object, &message, &Time(Timestamp::now())) else { return Ok(()) };
    let version = object.metadata.resource_version.as_deref();
    context.writer.patch_partial_status::<K>(&run, version, &status).await?;
    context.writer.publish(&run, Reason::NotUnderstood, &message).await;
    Ok(())
}

/// The part of the status to apply; absent if the object already has it, or if the run has ended.
fn status(object: &DynamicObject, message: &str, now: &Time) -> Option<Value> {
    let generation = object.metadata.generation;
    let previous = &object.data["status"];
    let condition = |kind: ConditionType| {
        let conditions = previous["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind.as_str())
            .unwrap_or(&Value::Null)
    };
    let succeeded = &condition(ConditionType::Succeeded)["status"];
    let ended = ["True", "False"].iter().any(|status| succeeded == status);
    if ended && previous["rerun"].as_u64() >= object.data["spec"]["rerun"].as_u64() {
        return None;
    }
    let reason = Reason::NotUnderstood.as_str();
    let wanted = [
        (ConditionType::Succeeded, "Unknown"),
        (ConditionType::Reconciling, "False"),
        (ConditionType::Stalled, "True"),
    ];
    let wanted = wanted.map(|(kind, status)| {
        let before = condition(kind);
        let same = before["status"] == status;
        let since = if same { before["lastTransitionTime"].clone() } else { json!(now) };
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since});
        (kind, condition)
    });
    if wanted.iter().all(|(kind, wanted)| condition(*kind) == wanted) {
        return None;
    }
    let conditions = wanted.map(|(_, condition)| condition);
    Some(json!({"observedGeneration": generation, "conditions": conditions, "display": {"phase": reason}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(rerun: u32, status: Value) -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"name": "a", "generation": 3}, "spec": {"rerun": rerun},
            "status": status}))
        .expect("an object")
    }

    #[test]
    fn conditions_are_written_once_and_only_of_a_run_that_has_not_ended() {
        let now = Time("2026-11-26T12:00:00Z".parse().expect("a time"));
        let applied = status(&object(0, json!({"observedGeneration": -1})), "so", &now).expect("conditions");
        assert_eq!(applied["observedGeneration"], 3);
        assert_eq!(status(&object(0, applied), "so", &now), None);
        let ended = json!({"rerun": 1, "conditions": [{"type": "Succeeded", "status": "True"}]});
        assert_eq!(status(&object(1, ended.clone()), "so", &now), None);
        assert!(status(&object(2, ended), "so", &now).is_some(), "a rerun was requested");
    }
}
