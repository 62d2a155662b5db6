//! Metrics. Labels are kind, step, reason and the like, never the name of a run, so that their number is bounded.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use stic_contract::{RunKind, StepName};
use stic_crds::Reason;

use crate::failpoint::Write;

/// From ten seconds, a step that finds its artifact, to four days.
const HOURS: [f64; 11] =
    [10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 345_600.0];

/// What a metric is, for the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

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
    run_seconds: HistogramVec,
    step_seconds: HistogramVec,
    watch_failures: IntCounterVec,
    watches_broken: IntGaugeVec,
    leader: IntGauge,
    build: IntGaugeVec,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// Two metrics have the same name, which the tests rule out.
    pub fn new() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        // The buckets are finest around the target, a p99 below 50 ms.
        let seconds = HistogramOpts::new("stic_reconcile_duration_seconds", "Duration of a reconciliation.")
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5,
                1.0, 2.5, 10.0,
            ]);
        let busy = HistogramOpts::new(
            "stic_reconcile_busy_seconds",
            "CPU time of a reconciliation: its duration without the time that it waits, such as for the API server.",
        )
        .buckets(vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1]);
        let metrics = Self {
            registry: Registry::new(),
            reconciles: counter("stic_reconciles_total", "Reconciliations.", &["kind", "result"])?,
            seconds: HistogramVec::new(seconds, &["kind"])?,
            busy: HistogramVec::new(busy, &["kind"])?,
            writes: counter("stic_api_writes_total", "Writes to the API server.", &["write", "result"])?,
            launches: counter("stic_step_launches_total", "Jobs created.", &["kind", "step"])?,
            transitions: counter(
                "stic_run_transitions_total",
                "Runs that entered a phase.",
                &["kind", "reason"],
            )?,
            runs: IntGaugeVec::new(Opts::new("stic_runs", "Runs by phase."), &["kind", "reason"])?,
            run_seconds: HistogramVec::new(
                HistogramOpts::new("stic_run_duration_seconds", "Time from the start of a run to its end.")
                    .buckets(HOURS.into()),
                &["kind", "reason"],
            )?,
            step_seconds: HistogramVec::new(
                HistogramOpts::new("stic_step_duration_seconds", "Time from the start of a step to its end.")
                    .buckets(HOURS.into()),
                &["kind", "step", "state"],
            )?,
            watch_failures: counter(
                "stic_watch_failures_total",
                "Requests to list or watch a resource that failed.",
                &["resource"],
            )?,
            watches_broken: IntGaugeVec::new(
                Opts::new("stic_watch_broken", "1 while a resource cannot be listed or watched, else 0."),
                &["resource"],
            )?,
            leader: IntGauge::new("stic_leader", "1 on the replica that is the leader, 0 on the others.")?,
            build: IntGaugeVec::new(
                Opts::new("stic_build_info", "Always 1; the label is the version of the operator."),
                &["version"],
            )?,
        };
        metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        for collector in metrics.collectors() {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 13] {
        let Self {
            registry: _,
            reconciles,
            seconds,
            busy,
            writes,
            launches,
            transitions,
            runs,
            run_seconds,
            step_seconds,
            watch_failures,
            watches_broken,
            leader,
            build,
        } = self;
        [
            Box::new(reconciles.clone()),
            Box::new(seconds.clone()),
            Box::new(busy.clone()),
            Box::new(writes.clone()),
            Box::new(launches.clone()),
            Box::new(transitions.clone()),
            Box::new(runs.clone()),
            Box::new(run_seconds.clone()),
            Box::new(step_seconds.clone()),
            Box::new(watch_failures.clone()),
            Box::new(watches_broken.clone()),
            Box::new(leader.clone()),
            Box::new(build.clone()),
        ]
    }

    /// Name, type, labels and meaning of every metric, for the reference page.
    #[must_use]
    pub fn descriptions(&self) -> Vec<Description> {
        let describe = |collector: Box<dyn Collector>| {
            let kind = collector.collect().first().map(|family| match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY => "summary",
                MetricType::UNTYPED => "untyped",
            });
            let kind = kind.unwrap_or("untyped");
            let described = collector.desc().into_iter().map(|desc| Description {
                name: desc.fq_name.clone(),
                kind,
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            });
            described.collect::<Vec<_>>()
        };
        self.collectors().into_iter().flat_map(describe).collect()
    }

    /// Counts a reconciliation that computed for `busy` of its `duration`.
    pub fn reconciled(&self, kind: RunKind, result: &str, duration: Duration, busy: Duration) {
        self.reconciles.with_label_values(&[kind.as_str(), result]).inc();
        self.seconds.with_label_values(&[kind.as_str()]).observe(duration.as_secs_f64());
        self.busy.with_label_values(&[kind.as_str()]).observe(busy.as_secs_f64());
    }

    pub fn wrote(&self, write: Write, result: &str) {
        self.writes.with_label_values(&[write.as_str(), result]).inc();
    }

    /// Counts a Job that was created.
    pub fn job_created(&self, kind: RunKind, step: StepName) {
        self.launches.with_label_values(&[kind.as_str(), step.as_str()]).inc();
    }

    /// Counts a run that entered a phase.
    pub fn phase_entered(&self, kind: RunKind, reason: Reason) {
        self.transitions.with_label_values(&[kind.as_str(), reason.as_str()]).inc();
    }

    /// Records how long a run took that has ended with `reason`.
    pub fn run_ended(&self, kind: RunKind, reason: Reason, duration: Duration) {
        self.run_seconds.with_label_values(&[kind.as_str(), reason.as_str()]).observe(duration.as_secs_f64());
    }

    /// Records how long a step took that has ended in `state`.
    pub fn step_ended(&self, kind: RunKind, step: StepName, state: &str, duration: Duration) {
        let labels = [kind.as_str(), step.as_str(), state];
        self.step_seconds.with_label_values(&labels).observe(duration.as_secs_f64());
    }

    /// Counts a request of a watch that failed.
    pub fn watch_failed(&self, resource: &str) {
        self.watch_failures.with_label_values(&[resource]).inc();
    }

    /// Records whether a resource cannot be watched at present.
    pub fn watch_broken(&self, resource: &str, broken: bool) {
        self.watches_broken.with_label_values(&[resource]).set(i64::from(broken));
    }

    /// Records whether this replica is the leader.
    pub fn set_leader(&self, yes: bool) {
        self.leader.set(i64::from(yes));
    }

    /// Sets the number of runs by kind and phase.
    pub fn set_runs(&self, runs: impl IntoIterator<Item = (RunKind, String)>) {
        self.runs.reset();
        for (kind, phase) in runs {
            self.runs.with_label_values(&[kind.as_str(), phase.as_str()]).inc();
        }
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// A metric cannot be encoded, which its type rules out.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_the_gauge_of_runs_is_reset() {
        let metrics = Metrics::new().expect("names differ");
        metrics.job_created(RunKind::StageOneRun, StepName::Train);
        metrics.set_runs([(RunKind::StageOneRun, "Training".to_owned())]);
        metrics.set_runs([(RunKind::StageOneRun, "Succeeded".to_owned())]);
        let text = String::from_utf8(metrics.text().expect("it is text")).expect("UTF-8");
        assert!(text.contains("stic_step_launches_total{kind=\"StageOneRun\",step=\"train\"} 1"), "{text}");
        assert!(text.contains("stic_runs{kind=\"StageOneRun\",reason=\"Succeeded\"} 1"), "{text}");
        assert!(!text.contains("Training"), "{text}");
        assert!(text.contains("stic_build_info{version="), "{text}");
        if cfg!(target_os = "linux") {
            assert!(
                text.contains("process_cpu_seconds_total ") && text.contains("process_open_fds "),
                "{text}"
            );
        }
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for Description { name, kind, .. } in Metrics::new().expect("names differ").descriptions() {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}: only counters end with _total");
            assert_eq!(name.ends_with("_seconds"), kind == "histogram", "{name}: a unit is part of the name");
        }
    }
}
