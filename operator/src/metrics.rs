//! Metrics. Their labels are kind, step, reason and the like, never the name of a run: their number is bounded.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use stic_contract::{RunKind, StepName};

use crate::cluster::failpoint::Write;

/// All metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    seconds: HistogramVec,
    busy: HistogramVec,
    writes: IntCounterVec,
    launches: IntCounterVec,
    transitions: IntCounterVec,
    runs: IntGaugeVec,
    leader: IntGauge,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// Two of one name, which the tests exclude.
    pub fn new() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        // Fine around what is aimed at: a p99 below 50 ms.
        let seconds = HistogramOpts::new("stic_reconcile_seconds", "How long a reconciliation took.")
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5,
                1.0, 2.5, 10.0,
            ]);
        let busy = HistogramOpts::new(
            "stic_reconcile_busy_seconds",
            "How long a reconciliation computed, without what it waited for.",
        )
        .buckets(vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1]);
        let metrics = Self {
            registry: Registry::new(),
            reconciles: counter("stic_reconciles_total", "Reconciliations.", &["kind", "result"])?,
            seconds: HistogramVec::new(seconds, &["kind"])?,
            busy: HistogramVec::new(busy, &["kind"])?,
            writes: counter("stic_api_writes_total", "Writes to the API server.", &["write", "result"])?,
            launches: counter("stic_step_launches_total", "Jobs made.", &["kind", "step"])?,
            transitions: counter(
                "stic_run_transitions_total",
                "Runs that came into a phase.",
                &["kind", "reason"],
            )?,
            runs: IntGaugeVec::new(Opts::new("stic_runs", "Runs by phase."), &["kind", "reason"])?,
            leader: IntGauge::new("stic_leader", "Whether this replica leads.")?,
        };
        let Self { registry, reconciles, seconds, busy, writes, launches, transitions, runs, leader } =
            &metrics;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(busy.clone()))?;
        registry.register(Box::new(writes.clone()))?;
        registry.register(Box::new(launches.clone()))?;
        registry.register(Box::new(transitions.clone()))?;
        registry.register(Box::new(runs.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        Ok(metrics)
    }

    /// A reconciliation ended, which computed for `busy` of the time it took.
    pub fn reconciled(&self, kind: RunKind, result: &str, took: Duration, busy: Duration) {
        self.reconciles.with_label_values(&[name(kind), result]).inc();
        self.seconds.with_label_values(&[name(kind)]).observe(took.as_secs_f64());
        self.busy.with_label_values(&[name(kind)]).observe(busy.as_secs_f64());
    }

    /// A write to the API server ended.
    pub fn wrote(&self, write: Write, result: &str) {
        self.writes.with_label_values(&[write.as_str(), result]).inc();
    }

    /// A Job was made.
    pub fn launched(&self, kind: RunKind, step: StepName) {
        self.launches.with_label_values(&[name(kind), step.as_str()]).inc();
    }

    /// A run came into a phase.
    pub fn entered(&self, kind: RunKind, reason: &str) {
        self.transitions.with_label_values(&[name(kind), reason]).inc();
    }

    /// Whether this replica leads.
    pub fn leads(&self, yes: bool) {
        self.leader.set(i64::from(yes));
    }

    /// How many runs there are, by kind and phase.
    pub fn count_runs(&self, runs: impl IntoIterator<Item = (RunKind, String)>) {
        self.runs.reset();
        for (kind, phase) in runs {
            self.runs.with_label_values(&[name(kind), phase.as_str()]).inc();
        }
    }

    /// As Prometheus reads them.
    ///
    /// # Errors
    /// A metric that cannot be written, which its types exclude.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

const fn name(kind: RunKind) -> &'static str {
    match kind {
        RunKind::StageOneRun => "StageOneRun",
        RunKind::StageTwoRun => "StageTwoRun",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_gauges_forget() {
        let metrics = Metrics::new().expect("names differ");
        metrics.launched(RunKind::StageOneRun, StepName::Train);
        metrics.count_runs([(RunKind::StageOneRun, "Training".to_owned())]);
        metrics.count_runs([(RunKind::StageOneRun, "Succeeded".to_owned())]);
        let text = String::from_utf8(metrics.text().expect("it is text")).expect("UTF-8");
        assert!(text.contains("stic_step_launches_total{kind=\"StageOneRun\",step=\"train\"} 1"), "{text}");
        assert!(text.contains("stic_runs{kind=\"StageOneRun\",reason=\"Succeeded\"} 1"), "{text}");
        assert!(!text.contains("Training"), "{text}");
    }
}
