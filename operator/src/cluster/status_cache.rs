//! Statuses that were written and that the watch has not delivered yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::{Resource, ResourceExt};
use stic_crds::RunStatus;

use crate::run_key::RunKey;

/// The last status that was written of each run, until the watch delivers it.
///
/// A run is often reconciled again before that, because its Job changed, and must not be judged by an outdated status.
#[derive(Debug, Default)]
pub struct StatusCache {
    by_run: Mutex<HashMap<RunKey, CachedStatus>>,
}

#[derive(Debug)]
struct CachedStatus {
    uid: String,
    version: String,
    status: RunStatus,
}

impl StatusCache {
    /// The newest status that is known of an object, and the resource version that has it. `watched` is the status that
    /// the watch delivered with the object.
    pub fn latest<K: Resource>(
        &self,
        run: &RunKey,
        object: &K,
        watched: Option<&RunStatus>,
    ) -> (RunStatus, Option<String>) {
        let version = object.resource_version();
        let mut by_run = self.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = by_run.get(run) {
            let same = object.meta().uid.as_deref() == Some(&cached.uid);
            if same && is_older(version.as_deref(), &cached.version) {
                return (cached.status.clone(), Some(cached.version.clone()));
            }
            by_run.remove(run);
        }
        (watched.cloned().unwrap_or_default(), version)
    }

    /// Keeps a status that was written.
    pub fn insert(&self, run: &RunKey, uid: &str, version: Option<String>, status: &RunStatus) {
        let Some(version) = version else { return };
        let cached = CachedStatus { uid: uid.to_owned(), version, status: status.clone() };
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner).insert(run.clone(), cached);
    }

    /// Forgets a run that was deleted.
    pub fn forget(&self, run: &RunKey) {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

// Resource versions are comparable numbers since Kubernetes 1.35. If one is not a number, the watch is trusted.
fn is_older(watched: Option<&str>, cached: &str) -> bool {
    match (watched.and_then(|watched| watched.parse::<u128>().ok()), cached.parse::<u128>()) {
        (Some(watched), Ok(cached)) => watched < cached,
        _ => false,
    }
}

#[cfg(test)]
impl StatusCache {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use stic_contract::RunKind;

    fn at(version: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"uid": "u", "resourceVersion": version}}))
            .expect("a ConfigMap")
    }

    #[test]
    fn a_written_status_counts_until_the_watch_delivers_it() {
        let cache = StatusCache::default();
        let status = RunStatus { rerun: 7, ..RunStatus::default() };
        let run = RunKey::new(RunKind::StageOneRun, "n", "a");
        let latest = |version: &str| cache.latest(&run, &at(version), None);
        cache.insert(&run, "u", Some("100".into()), &status);
        assert_eq!(latest("99"), (status.clone(), Some("100".into())));
        assert_eq!(latest("100"), (RunStatus::default(), Some("100".into())));
        assert_eq!(latest("99").1, Some("99".into()), "it is forgotten then");
        cache.insert(&run, "of an earlier run with that name", Some("100".into()), &status);
        assert_eq!(latest("99").0, RunStatus::default(), "the status of another run is ignored");
        assert!(cache.is_empty());
    }
}
