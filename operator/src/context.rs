//! What reconcilers share: the connection, what is watched, metrics.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use stic_crds::{RunStatus, StageOneRun};

use crate::build::labels::OPERATOR;
use crate::cluster::backoff::Backoff;
use crate::cluster::children::Children;
use crate::cluster::claims::Claims;
use crate::cluster::progress;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// The time a pod has for its answer about progress.
const PROGRESS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// What reconcilers share.
pub struct Context {
    /// The connection.
    pub client: Client,
    /// The settings.
    pub settings: Settings,
    /// The metrics.
    pub metrics: Metrics,
    /// Publishes events.
    pub recorder: Recorder,
    /// Jobs of our runs.
    pub jobs: Arc<Children<Job>>,
    /// Pods of our runs.
    pub pods: Arc<Children<Pod>>,
    /// The runs that others start from.
    pub stage_ones: Store<DeserializeGuard<StageOneRun>>,
    /// Who starts from them.
    pub references: References,
    /// Who waits for a claim.
    pub claims: Claims,
    /// Asks pods how far they are.
    pub progress: progress::Client,
    /// Failures in a row.
    pub backoff: Backoff,
    /// What was written and not seen by a watch yet.
    pub written: Written,
}

impl Context {
    /// A context in which nothing was seen yet.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        stage_ones: Store<DeserializeGuard<StageOneRun>>,
    ) -> Self {
        let instance = settings.lease.as_ref().map(|lease| lease.identity.clone());
        let reporter = Reporter { controller: OPERATOR.into(), instance };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            progress: progress::Client::new(settings.progress_concurrency, PROGRESS_TIMEOUT),
            client,
            settings,
            metrics,
            jobs: Arc::default(),
            pods: Arc::default(),
            stage_ones,
            references: References::default(),
            claims: Claims::default(),
            backoff: Backoff::default(),
            written: Written::default(),
        }
    }
}

/// Which `StageTwoRun`s start from which `StageOneRun`, by namespace and name.
#[derive(Debug, Default)]
pub struct References {
    by_upstream: Mutex<HashMap<(String, String), BTreeSet<String>>>,
}

impl References {
    /// Notes that `run` starts from `upstream`. To forget it again costs more than to look at it once too often.
    pub fn note(&self, namespace: &str, upstream: &str, run: &str) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.entry((namespace.to_owned(), upstream.to_owned())).or_default().insert(run.to_owned());
    }

    /// Who starts from `upstream`.
    #[must_use]
    pub fn of(&self, namespace: &str, upstream: &str) -> Vec<String> {
        let by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), upstream.to_owned());
        by_upstream.get(&key).into_iter().flatten().cloned().collect()
    }
}

/// The last status we wrote of each run, until a watch brings it back.
///
/// A run is often reconciled again before that, because its Job changed; it must not be judged by a status that we
/// know to be old.
#[derive(Debug, Default)]
pub struct Written {
    by_uid: Mutex<HashMap<String, (String, RunStatus)>>,
}

impl Written {
    /// The newest status that is known of an object, and the resource version that it is of.
    pub fn latest<K: Resource>(&self, object: &K, seen: Option<&RunStatus>) -> (RunStatus, Option<String>) {
        let version = object.resource_version();
        let uid = object.uid().unwrap_or_default();
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((written, status)) = by_uid.get(&uid) {
            if is_older(version.as_deref(), written) {
                return (status.clone(), Some(written.clone()));
            }
            by_uid.remove(&uid);
        }
        (seen.cloned().unwrap_or_default(), version)
    }

    /// Notes a status that was written.
    pub fn note(&self, uid: &str, version: Option<String>, status: &RunStatus) {
        let Some(version) = version else { return };
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        by_uid.insert(uid.to_owned(), (version, status.clone()));
    }
}

// Resource versions are comparable numbers since Kubernetes 1.35; where one is none, the watch is believed.
fn is_older(seen: Option<&str>, written: &str) -> bool {
    match (seen.and_then(|seen| seen.parse::<u128>().ok()), written.parse::<u128>()) {
        (Some(seen), Ok(written)) => seen < written,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn at(version: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"uid": "u", "resourceVersion": version}}))
            .expect("a ConfigMap")
    }

    #[test]
    fn what_was_written_counts_until_the_watch_has_it() {
        let written = Written::default();
        let status = RunStatus { rerun: 7, ..RunStatus::default() };
        written.note("u", Some("100".into()), &status);
        assert_eq!(written.latest(&at("99"), None), (status, Some("100".into())));
        assert_eq!(written.latest(&at("100"), None), (RunStatus::default(), Some("100".into())));
        assert_eq!(written.latest(&at("99"), None).1, Some("99".into()), "it is forgotten then");
    }
}
