//! A run that another version of the operator wrote and this one cannot read. It is told so, and loses nothing: it has
//! not failed, and the version that knows it goes on where it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};
use stic_crds::status::{RECONCILING, STALLED, SUCCEEDED};

use super::look_up;
use super::run::Run;
use crate::context::Context;
use crate::refusal::Reason;
use crate::validated::identity;

/// Writes conditions that say so, beside all that its status holds.
///
/// # Errors
/// Those of the API server.
pub(super) async fn tell<K: Run>(
    context: &Context,
    invalid: &InvalidObject,
) -> Result<(), super::driver::Error> {
    if invalid.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let run = identity(K::KIND, &invalid.metadata, 0)?;
    let Some(object) = look_up::raw(context, &ApiResource::erase::<K>(&()), &run).await? else {
        return Ok(());
    };
    let message = format!(
        "this version of the operator cannot read the run: {}; install the version of the operator that wrote it, and it goes on by itself",
        invalid.error
    );
    let Some(status) = status(&object, &message, &Time(Timestamp::now())) else { return Ok(()) };
    context.patch_beside::<K>(&run, object.metadata.resource_version.as_deref(), &status).await?;
    context.publish(&run, true, Reason::NotUnderstood.as_str(), &message).await;
    Ok(())
}

/// The part of a status that says so, unless it says so already or the run is over and needs nobody.
fn status(object: &DynamicObject, message: &str, now: &Time) -> Option<Value> {
    let generation = object.metadata.generation;
    let previous = &object.data["status"];
    let condition = |kind: &str| {
        let conditions = previous["conditions"].as_array();
        conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
    };
    let over = ["True", "False"].iter().any(|status| condition(SUCCEEDED)["status"] == *status);
    if over && previous["rerun"].as_u64() >= object.data["spec"]["rerun"].as_u64() {
        return None;
    }
    let reason = Reason::NotUnderstood.as_str();
    let conditions =
        [(SUCCEEDED, "Unknown"), (RECONCILING, "False"), (STALLED, "True")].map(|(kind, status)| {
            let before = condition(kind);
            let since =
                if before["status"] == status { before["lastTransitionTime"].clone() } else { json!(now) };
            json!({"type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since})
        });
    let said =
        conditions.iter().all(|wanted| condition(wanted["type"].as_str().unwrap_or_default()) == wanted);
    (!said).then(
        || json!({"observedGeneration": generation, "conditions": conditions, "display": {"phase": reason}}),
    )
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
    fn it_is_said_once_and_of_nothing_that_is_over() {
        let now = Time("2026-11-26T12:00:00Z".parse().expect("a time"));
        let said = status(&object(0, json!({"observedGeneration": -1})), "so", &now).expect("it is said");
        assert_eq!(said["observedGeneration"], 3);
        assert_eq!(status(&object(0, said), "so", &now), None);
        let over = json!({"rerun": 1, "conditions": [{"type": "Succeeded", "status": "True"}]});
        assert_eq!(status(&object(1, over.clone()), "so", &now), None);
        assert!(status(&object(2, over), "so", &now).is_some(), "it is asked to run again");
    }
}
