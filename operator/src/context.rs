//! What the reconciliations of all runs share.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::Store;
use stic_contract::RunKind;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::build::labels::OPERATOR;
use crate::cluster::api_writer::ApiWriter;
use crate::cluster::backoff::Backoff;
use crate::cluster::children::Children;
use crate::cluster::claims::Claims;
use crate::cluster::objects::{Job, Pod};
use crate::cluster::progress::ProgressClient;
use crate::cluster::progress_log::ProgressLog;
use crate::cluster::references::References;
use crate::cluster::status_cache::StatusCache;
use crate::cluster::workloads::WorkloadClient;
use crate::metrics::Metrics;
use crate::run_key::RunKey;
use crate::settings::Settings;
use crate::watches::Watches;

/// How long a pod may take to return its progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections, caches and settings, shared by all reconciliations.
pub struct Context {
    /// For reads. Every write goes through [`Self::writer`].
    pub client: Client,
    pub writer: ApiWriter,
    pub settings: Settings,
    pub metrics: Metrics,
    /// Whether the watches work.
    pub watches: Watches,
    /// The Jobs of all runs.
    pub jobs: Arc<Children<Job>>,
    /// The pods of all runs.
    pub pods: Arc<Children<Pod>>,
    /// The runs that other runs start from.
    pub stage_ones: Store<DeserializeGuard<StageOneRun>>,
    pub stage_twos: Store<DeserializeGuard<StageTwoRun>>,
    /// The runs that start from them.
    pub references: References,
    /// The runs that wait for a claim.
    pub claims: Claims,
    pub progress: ProgressClient,
    pub progress_log: ProgressLog,
    /// Kueue's Workloads.
    pub workloads: WorkloadClient,
    pub backoff: Backoff,
    /// Statuses that were written and that the watch has not delivered yet.
    pub statuses: StatusCache,
}

impl Context {
    /// A context with empty caches.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        watches: Watches,
        stage_ones: Store<DeserializeGuard<StageOneRun>>,
        stage_twos: Store<DeserializeGuard<StageTwoRun>>,
    ) -> Self {
        let instance = settings.lease.as_ref().map(|lease| lease.identity.clone());
        let reporter = Reporter { controller: OPERATOR.into(), instance };
        Self {
            writer: ApiWriter::new(client.clone(), metrics.clone(), reporter),
            progress: ProgressClient::new(settings.progress_concurrency, PROGRESS_TIMEOUT),
            progress_log: ProgressLog::default(),
            workloads: WorkloadClient::new(client.clone()),
            client,
            settings,
            metrics,
            watches,
            jobs: Arc::default(),
            pods: Arc::default(),
            stage_ones,
            stage_twos,
            references: References::default(),
            claims: Claims::default(),
            backoff: Backoff::default(),
            statuses: StatusCache::default(),
        }
    }

    /// Drops everything that is kept for a run that was deleted.
    pub fn forget(&self, kind: RunKind, namespace: &str, name: &str) {
        let run = RunKey::new(kind, namespace, name);
        self.statuses.forget(&run);
        self.backoff.forget(&run);
        self.references.forget(&run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Args, GivenSettings};
    use stic_crds::RunStatus;

    #[test]
    fn nothing_is_kept_of_runs_that_were_deleted() {
        let settings = Settings::resolve(Args {
            given: GivenSettings { trainer_image: Some("t".into()), ..GivenSettings::default() },
            ..Args::default()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().expect("an address")));
        let metrics = Metrics::new().expect("names differ");
        let context = Context::new(
            client.expect("it does not connect yet"),
            settings.expect("they are valid"),
            metrics.clone(),
            Watches::new(&std::collections::BTreeSet::new(), metrics),
            kube::runtime::reflector::store().0,
            kube::runtime::reflector::store().0,
        );
        let upstream = RunKey::new(RunKind::StageOneRun, "n", "one");
        for number in 0..3 {
            let name = format!("two-{number}");
            let run = RunKey::new(RunKind::StageTwoRun, "n", &name);
            context.references.insert(upstream.clone(), run.clone());
            context.backoff.failed(&run);
            context.statuses.insert(&run, &name, Some("1".into()), &RunStatus::default());
        }
        for name in ["two-0", "two-2"] {
            context.forget(RunKind::StageTwoRun, "n", name);
        }
        let left = [RunKey::new(RunKind::StageTwoRun, "n", "two-1")];
        assert_eq!(context.references.of(&upstream), left);
        context.forget(RunKind::StageTwoRun, "other", "two-1");
        assert_eq!(context.references.of(&upstream), left, "a run of another namespace was deleted");
        context.forget(RunKind::StageTwoRun, "n", "two-1");
        assert!(context.references.is_empty());
        assert!(context.statuses.is_empty());
        assert_eq!(context.backoff.len(), 0);
    }
}
