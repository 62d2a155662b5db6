//! What reconcilers share: the connection, what is watched, metrics.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::DeserializeGuard;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use stic_contract::RunKind;
use stic_crds::{RunStatus, StageOneRun};

use crate::build::labels::OPERATOR;
use crate::cluster::backoff::Backoff;
use crate::cluster::children::Children;
use crate::cluster::claims::Claims;
use crate::cluster::objects::{Job, Pod};
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
    /// Who publishes events.
    pub reporter: Reporter,
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
            reporter,
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

    /// Forgets all that is kept of a run that is gone: names are endless, memory is not.
    pub fn forget(&self, kind: RunKind, namespace: &str, name: &str) {
        let run = RunKey::new(kind, namespace, name);
        self.written.forget(&run);
        self.backoff.forget(&run);
        if kind == RunKind::StageTwoRun {
            self.references.forget(namespace, name);
        }
    }
}

/// A run by its name. What is kept of one is kept by this, so that it can be dropped when the name is all that is left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunKey {
    kind: RunKind,
    namespace: String,
    name: String,
}

impl RunKey {
    /// The run of that name.
    #[must_use]
    pub fn new(kind: RunKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Which `StageTwoRun`s start from which `StageOneRun`, by namespace and name.
#[derive(Debug, Default)]
pub struct References {
    by_upstream: Mutex<HashMap<(String, String), BTreeSet<String>>>,
}

impl References {
    /// Notes that `run` starts from `upstream`.
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

    /// Forgets a `StageTwoRun` that is gone. To walk over all is cheap beside how seldom that is.
    pub fn forget(&self, namespace: &str, run: &str) {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        by_upstream.retain(|(of, _), runs| {
            if of == namespace {
                runs.remove(run);
            }
            !runs.is_empty()
        });
    }
}

/// The last status we wrote of each run, until a watch brings it back.
///
/// A run is often reconciled again before that, because its Job changed; it must not be judged by a status that we
/// know to be old.
#[derive(Debug, Default)]
pub struct Written {
    by_run: Mutex<HashMap<RunKey, Last>>,
}

#[derive(Debug)]
struct Last {
    uid: String,
    version: String,
    status: RunStatus,
}

impl Written {
    /// The newest status that is known of an object, and the resource version that it is of.
    pub fn latest<K: Resource>(
        &self,
        run: &RunKey,
        object: &K,
        seen: Option<&RunStatus>,
    ) -> (RunStatus, Option<String>) {
        let version = object.resource_version();
        let mut by_run = self.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = by_run.get(run) {
            let same = object.meta().uid.as_deref() == Some(&last.uid);
            if same && is_older(version.as_deref(), &last.version) {
                return (last.status.clone(), Some(last.version.clone()));
            }
            by_run.remove(run);
        }
        (seen.cloned().unwrap_or_default(), version)
    }

    /// Notes a status that was written.
    pub fn note(&self, run: &RunKey, uid: &str, version: Option<String>, status: &RunStatus) {
        let Some(version) = version else { return };
        let last = Last { uid: uid.to_owned(), version, status: status.clone() };
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner).insert(run.clone(), last);
    }

    /// Forgets a run that is gone.
    pub fn forget(&self, run: &RunKey) {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
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
    use crate::settings::{Args, Given};
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
        let run = RunKey::new(RunKind::StageOneRun, "n", "a");
        let latest = |version: &str| written.latest(&run, &at(version), None);
        written.note(&run, "u", Some("100".into()), &status);
        assert_eq!(latest("99"), (status.clone(), Some("100".into())));
        assert_eq!(latest("100"), (RunStatus::default(), Some("100".into())));
        assert_eq!(latest("99").1, Some("99".into()), "it is forgotten then");
        written.note(&run, "of an earlier run of that name", Some("100".into()), &status);
        assert_eq!(latest("99").0, RunStatus::default(), "another run's status is not taken for it");
        assert!(written.by_run.lock().expect("nothing panicked").is_empty());
    }

    #[test]
    fn nothing_is_kept_of_runs_that_are_gone() {
        let settings = Settings::settle(Args {
            given: Given { trainer_image: Some("t".into()), ..Given::default() },
            ..Args::default()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().expect("an address")));
        let context = Context::new(
            client.expect("no connection is made yet"),
            settings.expect("they are right"),
            Metrics::new().expect("names differ"),
            kube::runtime::reflector::store().0,
        );
        for number in 0..3 {
            let name = format!("two-{number}");
            let run = RunKey::new(RunKind::StageTwoRun, "n", &name);
            context.references.note("n", "one", &name);
            context.backoff.failed(&run);
            context.written.note(&run, &name, Some("1".into()), &RunStatus::default());
        }
        for name in ["two-0", "two-2"] {
            context.forget(RunKind::StageTwoRun, "n", name);
        }
        assert_eq!(context.references.of("n", "one"), ["two-1"]);
        context.forget(RunKind::StageTwoRun, "other", "two-1");
        assert_eq!(context.references.of("n", "one"), ["two-1"], "it is another namespace's that is gone");
        context.forget(RunKind::StageTwoRun, "n", "two-1");
        assert!(context.references.by_upstream.lock().expect("nothing panicked").is_empty());
        assert!(context.written.by_run.lock().expect("nothing panicked").is_empty());
        assert_eq!(context.backoff.kept(), 0);
    }
}
