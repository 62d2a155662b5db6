//! The rules of kstatus for kinds that it does not know, from `pkg/kstatus/status` in sigs.k8s.io/cli-utils.

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kstatus {
    InProgress,
    Current,
    Failed,
    Terminating,
}

/// The result of kstatus for an object.
pub(crate) fn compute(object: &Value) -> Kstatus {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    if metadata["deletionTimestamp"].as_str().is_some_and(|time| !time.is_empty()) {
        return Kstatus::Terminating;
    }
    if let (Some(generation), Some(observed)) =
        (metadata["generation"].as_i64(), status["observedGeneration"].as_i64())
        && generation != observed
    {
        return Kstatus::InProgress;
    }
    let conditions = || status["conditions"].as_array().into_iter().flatten();
    for condition in conditions().filter(|condition| condition["status"] == "True") {
        // The first of the two wins.
        match condition["type"].as_str() {
            Some("Reconciling") => return Kstatus::InProgress,
            Some("Stalled") => return Kstatus::Failed,
            _ => {}
        }
    }
    match conditions().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] != "True" => Kstatus::InProgress,
        _ => Kstatus::Current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn golden_objects() {
        let object = |generation: i64, observed: Option<i64>, conditions: &[(&str, &str)]| {
            let conditions: Vec<_> =
                conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
            json!({"metadata": {"generation": generation},
                "status": {"observedGeneration": observed, "conditions": conditions}})
        };
        let golden = [
            (json!({"metadata": {"generation": 1}}), Kstatus::Current),
            (object(1, None, &[]), Kstatus::Current),
            (object(1, Some(-1), &[]), Kstatus::InProgress),
            (object(2, Some(1), &[("Stalled", "True")]), Kstatus::InProgress),
            (object(1, Some(1), &[("Reconciling", "True")]), Kstatus::InProgress),
            (object(1, Some(1), &[("Reconciling", "False"), ("Stalled", "True")]), Kstatus::Failed),
            (object(1, Some(1), &[("Stalled", "True"), ("Reconciling", "True")]), Kstatus::Failed),
            (object(1, Some(1), &[("Reconciling", "Unknown"), ("Stalled", "False")]), Kstatus::Current),
            (object(1, Some(1), &[("Ready", "False")]), Kstatus::InProgress),
            (object(1, Some(1), &[("Ready", "True")]), Kstatus::Current),
            (
                json!({"metadata": {"generation": 1, "deletionTimestamp": "2026-11-26T12:00:00Z"},
                "status": {"observedGeneration": 0}}),
                Kstatus::Terminating,
            ),
        ];
        for (object, wanted) in golden {
            assert_eq!(compute(&object), wanted, "{object:#}");
        }
    }
}
